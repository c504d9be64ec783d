"""pfl-research: its federated averaging in the simulated backend, one process."""

import sys
from collections import Counter

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

from benchmarks.federated.files import FederatedProblem, Recorder
from benchmarks.federated.torch_models import build, data_of, get_weights, loss_of


class _Stamps(TrainingProcessCallback):
    def __init__(self, recorder: Recorder, problem: FederatedProblem, network: torch.nn.Module):
        self._recorder, self._problem, self._network = recorder, problem, network
        self.weights = None

    def on_train_begin(self, *, model):
        self._recorder.stamp()
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self._recorder.stamp()
        done = central_iteration + 1
        if done == self._problem.rounds:
            self.weights = get_weights(self._network)
        return done >= self._problem.rounds and not self._recorder.wants_more(), Metrics()


def main(path: str, folder: str, job: str) -> None:
    problem, recorder = FederatedProblem.load(path), Recorder(folder)
    network, (x, y) = build(problem), data_of(problem)
    network.loss = lambda images, labels: loss_of(problem, network(images), labels)
    network.metrics = lambda images, labels: {}
    passes = Counter()

    def dataset(client):
        order = torch.from_numpy(problem.orders[passes[client] % problem.rounds, client]).long()
        passes[client] += 1
        return Dataset(raw_data=[x[client][order], y[client][order]], user_id=client)

    clients = FederatedDataset(dataset, get_user_sampler("minimize_reuse", list(range(problem.clients))))
    model = PyTorchModel(
        network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    stamps = _Stamps(recorder, problem, network)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=1000,
            evaluation_frequency=2000,
            train_cohort_size=problem.clients,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=clients, val_data=clients),
        model,
        NNTrainHyperParams(
            local_batch_size=problem.batch_size,
            local_num_epochs=1,
            local_learning_rate=problem.learning_rate,
        ),
        callbacks=[stamps],
    )
    recorder.write(stamps.weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
