"""Private releases: the one value that clipping, noise, batches and accounting are derived from."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Channel
from fedrecon.federated.method import Evaluation, Method
from fedrecon.federated.trees import divide, scale

UNITS = ("example", "patient", "site")
SAMPLINGS = ("poisson", "balls_in_bins", "fixed")


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """Sums over privacy units with clipping and Gaussian noise, the same at every client and in every step.

    Of the neighboring relation "zero-out" all: two data sets, of the same public numbers of units, differ in
    one unit's being replaced by nothing. It moves a sum by at most ``sensitivity``.

    Attributes:
      clipping_norm: C, bound on the l2 norm of what one unit adds to a sum, over all parameters.
      noise_multiplier: z, standard deviation of the noise of a release over its sensitivity.
      expected_batch_size: what sums are divided by: the expected number of units in a sum, never the realized
        one. With "fixed" sampling that of full batches, a whole number.
      padded_batch_size: most units in a sum.
      steps: sums in a round: local steps of every client, or with "fixed" sampling of the largest.
      unit: what is protected: "example", one image or slice; "patient", all examples of one at one client,
        told apart by ``examples["volume"]``; "site", all of one client's data.
      sampling: "poisson", every unit with the same probability in every sum; "balls_in_bins", every unit in
        one random sum of each pass; "fixed", shuffled passes in full batches.
      epochs: passes in a round, of "fixed" sampling.
      units: most units of one client; of the unit "site" the number of clients. 0 is the number of examples.
      images: most examples of one unit.
      microbatch_size: units whose gradients are held in memory at once; divides ``padded_batch_size``. None
        takes all.
      strategy: coefficients of a banded Toeplitz strategy C of the matrix mechanism: steps of a client get
        the noise C^-1 z, over all rounds, and its whole training is one release. Units then come in one
        order in every pass. Empty for independent noise.
      decays: of a buffered linear Toeplitz strategy, one for each of its buffers, whose output scales
        ``strategy`` then has: C has the coefficients 1, and sum_k strategy[k] * decays[k]^(i - 1).
      factors: sensitivity of the strategy for clients with 0, 1, 2, ... steps in a pass.
      count_noise: of the unit "site": noise of the count of clipped sites, from which the clipping norm is
        adapted (see `private_sum`), which begins at ``clipping_norm``; 0 keeps it.

    Raises:
      ValueError: for arguments out of range, or that contradict each other.
    """

    clipping_norm: float
    noise_multiplier: float
    expected_batch_size: float
    padded_batch_size: int
    steps: int = 1
    unit: str = "example"
    sampling: str = "poisson"
    epochs: int = 1
    units: int = 0
    images: int = 1
    microbatch_size: int | None = None
    strategy: tuple[float, ...] = ()
    decays: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    count_noise: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("unit", UNITS), ("sampling", SAMPLINGS)):
            if getattr(self, name) not in known:
                raise ArgumentError(name, f"one of {', '.join(known)}", repr(getattr(self, name)))
        for name in ("clipping_norm", "expected_batch_size"):
            if not getattr(self, name) > 0:
                raise ArgumentError(name, "a positive number", repr(getattr(self, name)))
        for name, least in (("noise_multiplier", 0), ("count_noise", 0), ("units", 0)):
            if not getattr(self, name) >= least:
                raise ArgumentError(name, f"a number of at least {least}", repr(getattr(self, name)))
        for name in ("padded_batch_size", "steps", "epochs", "images"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ArgumentError(name, "an integer of at least 1", repr(value))
        self._check_pairs()

    def _check_pairs(self) -> None:
        if self.sampling == "fixed" and self.expected_batch_size != self.padded_batch_size:
            raise ArgumentError(
                "padded_batch_size",
                f"expected_batch_size={self.expected_batch_size:g} with fixed batches",
                self.padded_batch_size,
            )
        if self.strategy and self.sampling != "fixed":
            raise ArgumentError(
                "sampling", "fixed with a matrix strategy, which knows its order", self.sampling
            )
        if bool(self.strategy) != bool(self.factors):
            raise ArgumentError("factors", "the sensitivities of the strategy with it alone", self.factors)
        if self.decays and len(self.decays) != len(self.strategy):
            raise ArgumentError("decays", f"as many as the {len(self.strategy)} scales", len(self.decays))
        if self.unit == "site" and (self.strategy or self.sampling == "balls_in_bins"):
            raise ArgumentError(
                "sampling", "poisson or fixed of whole sites, with independent noise", self.sampling
            )
        if self.count_noise and self.unit != "site":
            raise ArgumentError("count_noise", "0 unless the unit is a site", self.count_noise)
        if self.count_noise and self.noise_multiplier >= 2 * self.count_noise:
            raise ArgumentError(
                "count_noise",
                f"more than half the noise multiplier {self.noise_multiplier:g}, which both releases share; "
                "with few sites keep the clipping norm",
                self.count_noise,
            )

    @property
    def sensitivity(self) -> float:
        """Most that one unit moves a sum in l2 norm."""
        return self.clipping_norm

    @property
    def sum_multiplier(self) -> float:
        """Standard deviation of a sum's noise over its sensitivity: above z with a count that is released."""
        if not self.count_noise or not self.noise_multiplier:
            return self.noise_multiplier
        return (self.noise_multiplier**-2 - (2 * self.count_noise) ** -2) ** -0.5

    @property
    def stddev(self) -> float:
        """Standard deviation of the noise of a sum, times ``factors`` with a strategy."""
        return self.sum_multiplier * self.sensitivity

    def describe(self) -> str:
        """Unit, neighbors and sampling, in a phrase."""
        units = {"example": "one example (image or slice)", "patient": "one patient with all of their images"}
        batches = {
            "poisson": "Poisson sampling",
            "balls_in_bins": "balls-in-bins sampling, anew in every pass",
            "fixed": "fixed batches without amplification",
        }
        noise = f", {len(self.strategy)}-banded matrix-factorization noise" if self.strategy else ""
        if self.decays:
            noise = f", buffered linear Toeplitz noise ({len(self.decays)} buffers)"
        unit = units.get(self.unit, "one site with all of its patients")
        if self.unit == "site":
            batches |= {"poisson": "Poisson sampling of sites", "fixed": "all sites in every round"}
        return f"unit: {unit}; neighbors: zero-out of one unit; {batches[self.sampling]}{noise}"


# Of adaptive clipping: part of the sites that are to be within the bound, and how fast it moves.
QUANTILE, BOUND_RATE = 0.5, 0.2


def private_sum(mechanism: Mechanism) -> Channel:
    """DP-FedAvg (McMahan et al. 2018) as a channel: whole sites are the units.

    A site's change of the model is taken without its weight and clipped, and the server decodes

      (sum_i clip(delta_i, C) + N(0, (z C)^2 I)) / expected_batch_size

    over shared parameters and statistics, as a mean of ``expected_batch_size`` updates: sites count the same,
    and the divisor is fixed, also where nobody joined. With ``count_noise`` the bound C is broadcast once and
    follows the median of the norms (Andrew et al. 2021): with b the noised part of the sites within it, C
    becomes C exp(-0.2 (b - 0.5)), and the noise of the sum is so much larger that both together cost z.

    Guarantees and edge cases:
      - Removing one site moves the sum by at most C. An update that is not finite counts as zero.
      - A round that the server does not apply has released its sums all the same: the bound keeps what it
        learned, and the noise of the next round is new.
      - A message besides the model is refused, since it would travel without noise.

    Args:
      mechanism: of the unit "site".

    Raises:
      ValueError: the unit is another; from ``init``, if messages or whole numbers are sent.
    """
    if mechanism.unit != "site":
        raise ArgumentError("mechanism.unit", "site, for a sum over sites", mechanism.unit)
    adaptive = mechanism.count_noise > 0

    def init(upload):
        if jax.tree.leaves(upload.message):
            raise ArgumentError("method", "one that sends the model alone, with private sums", "a message")
        if not all(jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(upload.delta)):
            raise ArgumentError("variables", "numbers that noise can be added to", "whole numbers")
        return (), jnp.float32(mechanism.clipping_norm) if adaptive else ()

    def encode(upload, state, context):
        bound = context.broadcast if adaptive else mechanism.sensitivity
        own = divide(upload.delta, upload.weight)
        length = optax.tree.norm(own)
        over = length > bound
        own = scale(jnp.where(over, bound / jnp.where(over, length, 1), 1), own)
        message = upload.message
        if adaptive:
            message = message._replace(summed=(message.summed, jnp.where(over, -0.5, 0.5)))
        return upload._replace(delta=own, message=message, weight=jnp.float32(1)), state, {}

    def decode(total, state, context):
        count = jnp.float32(mechanism.expected_batch_size)
        sum_key, count_key = jax.random.split(context.key)
        # The bound takes the place of the sensitivity that it began with.
        stddev = mechanism.stddev * (state / mechanism.clipping_norm if adaptive else 1)
        noise = optax.tree.random_like(sum_key, total.delta, jax.random.normal)
        delta = jax.tree.map(lambda x, n: x + (stddev * n).astype(x.dtype), total.delta, noise)
        message = total.message
        if adaptive:
            summed, within = message.summed
            message = message._replace(summed=summed)
            part = 0.5 + (within + mechanism.count_noise * jax.random.normal(count_key)) / count
            state = state * jnp.exp(-BOUND_RATE * (part - QUANTILE))
        return total._replace(delta=delta, message=message, weight=count), state, {}

    return Channel(
        init,
        encode,
        decode,
        broadcast=(lambda state: state) if adaptive else None,
        rollback=lambda before, after: after,
    )


def unreported() -> Method:
    """A method whose clients report no loss and send nothing but the model, for private sums over sites."""

    def oracle(value_and_grad):
        def silent(*arguments):
            evaluation, gradient = value_and_grad(*arguments)
            return Evaluation(None, evaluation.stats, {}), gradient

        return silent

    return Method(oracle=oracle, hides=True)
