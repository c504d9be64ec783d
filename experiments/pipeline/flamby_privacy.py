"""FedAvg on clinical tables under a budget of privacy, in FLamby's protocol."""

import jax
import optax

from experiments.pipeline.flamby import STEPS, Protocol, Setting, Trainer, initial_variables
from fedrecon import federated as fl
from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism, private_sum, unreported
from fedrecon.privacy import calibrate_noise_multiplier, with_noise
from fedrecon.types import Variables

# The clipping norm of FLamby's example.
CLIPPING_NORM = 1.1


def private_trainer(
    protocol: Protocol, setting: Setting, *, epsilon: float, delta: float, unit: str
) -> tuple[Trainer, float]:
    """FedAvg with DP-SGD at every site, or with noise on the sum of the sites' changes.

    Args:
      protocol, setting: of the data set; a patient has one row, so that patients are examples.
      epsilon, delta: of every site's guarantee for all rounds.
      unit: "patient" or "site".

    Returns:
      how it trains, and the noise multiplier.

    Raises:
      ArgumentError: another unit, or a budget that no noise meets.
    """
    if unit not in ("patient", "site"):
        raise ArgumentError("unit", "patient or site", repr(unit))
    rate = protocol.methods["fedavg"]["learning_rate"]
    sizes = [int(n) for n in setting.sites.counts]
    if unit == "patient":
        batch = protocol.batch_size
        mechanism = Mechanism(CLIPPING_NORM, 0.0, float(batch), 2 * batch + 4, steps=STEPS, units=max(sizes))
        units = sizes
    else:
        count = len(sizes)
        units = [count] * count
        mechanism = Mechanism(
            CLIPPING_NORM, 0.0, float(count), count, unit="site", sampling="fixed", units=count
        )
    found = calibrate_noise_multiplier(epsilon, [(mechanism, protocol.rounds)], units=units, delta=delta)
    mechanism = with_noise(mechanism, found.noise_multiplier)
    if unit == "patient":
        algorithm = fl.fedavg(setting.task, optax.sgd(rate), method=fl.private_gradients(mechanism))
        work = {}
    else:
        channel = fl.chain(private_sum(mechanism))
        algorithm = fl.fedavg(setting.task, optax.sgd(rate), method=unreported(), channel=channel)
        work = {"batch_size": protocol.batch_size, "steps": STEPS}
    round = fl.make_round(algorithm, **work)

    def train(seed: int, setting: Setting) -> list[Variables]:
        data = fl.place(setting.sites)
        state = fl.init_state(algorithm, initial_variables(setting.task, setting.features, seed), data)
        for _ in range(protocol.rounds):
            state, _ = round(state, data, jax.random.key(seed))
        return [algorithm.release(state)] * len(setting.tests)

    return train, found.noise_multiplier
