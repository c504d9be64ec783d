"""NVIDIA FLARE: its federated averaging in the simulator, a process for every client.

``PROBLEM FOLDER JOB`` runs the simulator, which runs this file as ``--client PROBLEM FOLDER`` at each client.
"""

import logging
import sys
from pathlib import Path

import nvflare.client as flare
import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

from benchmarks.federated.files import FederatedProblem, Recorder
from benchmarks.federated.torch_models import as_tensor, build, get_weights, train


def main(path: str, folder: str, job: str) -> None:
    problem = FederatedProblem.load(path)
    network = build(problem)
    recipe = FedAvgRecipe(
        name="benchmark",
        model={"class_path": f"{type(network).__module__}.{type(network).__name__}", "args": {}},
        min_clients=problem.clients,
        # What the clients receive in a further round is the result of the last.
        num_rounds=problem.rounds + 1,
        train_script=__file__,
        train_args=f"--client {path} {folder}",
    )
    environment = SimEnv(num_clients=problem.clients, workspace_root=str(Path(folder, "simulation")))
    recipe.execute(environment)


def client(path: str, folder: str) -> None:
    """What runs at each client; the first one notes when it receives the model of a round."""
    problem, recorder = FederatedProblem.load(path), Recorder(folder)
    torch.set_num_threads(1)
    network = build(problem)
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2]) - 1
    x, y = as_tensor(problem.x[number]), as_tensor(problem.y[number])
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        recorder.stamp()
        round = received.current_round
        # The first round starts from the problem's weights, whatever the server drew.
        if round:
            network.load_state_dict({k: torch.as_tensor(v) for k, v in received.params.items()})
        if round == problem.rounds and number == 0:
            recorder.write(get_weights(network))
        train(network, problem, x, y, problem.orders[round % problem.rounds, number])
        params = {k: v.detach().clone() for k, v in network.state_dict().items()}
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": len(x)}))


if __name__ == "__main__":
    if "--client" in sys.argv[1:]:
        client(*sys.argv[sys.argv.index("--client") + 1 :][:2])
    else:
        logging.disable(logging.INFO)
        main(*sys.argv[1:])
