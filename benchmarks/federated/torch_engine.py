"""The same clients one after another in plain torch: weights copied, trained and averaged; no federation."""

import sys

import torch

from benchmarks.federated.files import FederatedProblem, Recorder
from benchmarks.federated.torch_models import build, data_of, get_weights, train


def main(path: str, folder: str, job: str) -> None:
    problem, recorder = FederatedProblem.load(path), Recorder(folder)
    network, (x, y) = build(problem), data_of(problem)
    parameters, weights = list(network.parameters()), None
    received = [p.detach().clone() for p in parameters]
    round = 0
    recorder.stamp()
    while round < problem.rounds or recorder.wants_more():
        total = [torch.zeros_like(p) for p in received]
        for client in range(problem.clients):
            with torch.no_grad():
                torch._foreach_copy_(parameters, received)
            train(network, problem, x[client], y[client], problem.orders[round % problem.rounds, client])
            with torch.no_grad():
                torch._foreach_add_(total, parameters)
        torch._foreach_div_(total, problem.clients)
        received, round = total, round + 1
        recorder.stamp()
        if round == problem.rounds:
            with torch.no_grad():
                torch._foreach_copy_(parameters, received)
            weights = get_weights(network)
    recorder.write(weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
