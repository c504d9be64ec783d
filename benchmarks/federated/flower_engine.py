"""Flower: its federated averaging in the simulation runtime on Ray, one core for each client at work."""

import functools
import sys

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.federated.files import FederatedProblem, Recorder
from benchmarks.federated.torch_models import as_tensor, build, get_weights, train


@functools.lru_cache(1)
def _loaded(path: str):
    """Once in every process that simulates clients."""
    problem = FederatedProblem.load(path)
    return problem, build(problem)


def _train(path: str, message, context):
    problem, network = _loaded(path)
    client = int(context.node_config["partition-id"])
    round = int(message.content["config"]["server-round"]) - 1
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = as_tensor(problem.x[client]), as_tensor(problem.y[client])
    train(network, problem, x, y, problem.orders[round % problem.rounds, client])
    content = RecordDict(
        {
            "arrays": ArrayRecord(network.state_dict()),
            "metrics": MetricRecord({"num-examples": len(x)}),
        }
    )
    return Message(content=content, reply_to=message)


class _Stamped(FedAvg):
    def __init__(self, recorder: Recorder, **options):
        super().__init__(**options)
        self._recorder = recorder

    def configure_train(self, server_round, arrays, config, grid):
        if server_round == 1:
            self._recorder.stamp()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        if any(reply.has_error() for reply in replies):
            raise RuntimeError(str(next(reply.error for reply in replies if reply.has_error())))
        result = super().aggregate_train(server_round, replies)
        self._recorder.stamp()
        return result


def main(path: str, folder: str, job: str) -> None:
    problem, recorder = FederatedProblem.load(path), Recorder(folder)
    network = build(problem)
    client_app, server_app = ClientApp(), ServerApp()
    client_app.train()(functools.partial(_train, path))

    @server_app.main()
    def serve(grid, context):
        strategy = _Stamped(
            recorder,
            fraction_evaluate=0.0,
            min_train_nodes=problem.clients,
            min_available_nodes=problem.clients,
        )
        arrays = ArrayRecord(network.state_dict())
        result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=problem.rounds)
        network.load_state_dict(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app,
        client_app,
        num_supernodes=problem.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    recorder.write(get_weights(network))


if __name__ == "__main__":
    # Ray finds functions of modules by name, and those of the main module not at all.
    from benchmarks.federated import flower_engine

    flower_engine.main(*sys.argv[1:])
