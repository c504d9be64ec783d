"""Messages of clients under ``--codec``, as bytes."""

import dataclasses

import jax

from fedrecon import communication
from fedrecon import federated as fl
from fedrecon.training.budgets import Budget
from fedrecon.training.catalog_algorithms import make_algorithm, method
from fedrecon.training.codecs import make_codec
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.stage import Stage, started


def message_length(stage: Stage, settings: FederationSettings, budget: Budget) -> int | None:
    """Length in bytes of the first client's message in the first round, made for this; None without a codec.

    None also of methods that encrypt what the codec makes, whose messages are ciphertexts. Without secure
    sums and privacy, which change no number of bytes of what the codec makes.

    Raises:
      FlagError: as `make_algorithm`.
    """
    codec = make_codec(settings)
    if codec is None or "reduce" in method(settings.algorithm).fixes:
        return None
    plain = dataclasses.replace(
        settings, secure_aggregation="none", secure_aggregation_options=(), dp_epsilon=0.0
    )
    if "mechanism" in method(plain.algorithm).needs:
        # Such methods train with a budget alone, and send what FedAvg sends.
        plain = dataclasses.replace(plain, algorithm="fedavg", algorithm_options=())
    stage, tuning = started(stage, settings)
    algorithm = make_algorithm(
        plain, budget, stage.task, stage.clients, represent=stage.represent, tuning=tuning
    )
    algorithm = algorithm._replace(channel=codec.channel)
    data = fl.place(stage.clients, frozen=stage.variables)
    state = fl.init_state(algorithm, stage.variables, data)
    own = algorithm.client.batching is not None
    work = {} if own else budget.work

    @jax.jit
    def train(state, data):
        return fl.traffic.first_upload(algorithm, state, data, stage.key, **work)

    sent = train(state, data)
    whose = communication.Envelope()
    return len(communication.upload_message(codec, sent.upload, sent.state, sent.context, whose))
