"""What differential privacy at the cut of a divided network promises, to whom, and what it costs.

The unit is one example, zeroed: two runs differ in that one institution's data on one example are replaced by
nothing. Batches are fixed passes over all examples, in an order that all know, so that no amplification by
sampling is claimed: institutions that share the order of examples know who is in a batch.

A guest's data, from the host and from all who see messages or the trained networks: in each pass an example
is in two releases, its activations, clipped with noise, and its part of the guest's own gradient, clipped and
summed with noise. The second is needed although it is never sent: without it the network that makes all later
activations, those of other examples too, would depend on the example without a bound. A guest whose network
is never trained has the first alone, and if it sends its activations once, a single release in all.

The host's labels and inputs, from guests: likewise the gradients at the cut, of which an example's are
clipped together, and the host's own gradient.

What is not covered: that an example belongs to both institutions, which the intersection told them; what a
guest's data tell in messages of another institution about the same person, since the two are protected apart;
activations at test time, each of which is one more release of its example.
"""

from fedrecon.errors import ArgumentError
from fedrecon.federated.mechanism import Mechanism
from fedrecon.privacy import calibrate_noise_multiplier, composed, default_delta, epsilon_of
from fedrecon.vertical.split_network import Protection


def fixed_mechanism(
    clipping_norm: float, noise_multiplier: float, *, examples: int, passes: int, batch_size: int = 0
) -> Mechanism:
    """The mechanism of a kind of message of which an example sends one in every pass.

    Args:
      clipping_norm: bound on an example's.
      noise_multiplier: deviation of the noise over that.
      examples: of the training.
      passes: over them; 1 of what is sent once.
      batch_size: examples of a step; 0 is all of them.

    Raises:
      ValueError: arguments out of range.
    """
    size = batch_size or examples
    if not 1 <= size <= examples:
        raise ArgumentError("batch_size", f"0 to {examples}", batch_size)
    return Mechanism(
        clipping_norm,
        noise_multiplier,
        expected_batch_size=size,
        padded_batch_size=size,
        steps=passes * -(-examples // size),
        sampling="fixed",
        epochs=passes,
        units=examples,
    )


def guest_epsilon(protection: Protection, examples: int, delta: float | None = None) -> float:
    """Epsilon of an example's data at a guest.

    Args:
      protection: of the training; ``guests`` is None of networks that are never trained.
      examples: of the training.
      delta: by default 1e-5, and ``examples ** -1.1`` where that is less.

    Returns:
      infinite if activations are sent as they are.

    Raises:
      ValueError: ``guests`` without ``activations``, which promises nothing.
    """
    return _epsilon(protection.activations, protection.guests, ("activations", "guests"), examples, delta)


def host_epsilon(protection: Protection, examples: int, delta: float | None = None) -> float:
    """Epsilon of an example's label and inputs at the host; arguments as in `guest_epsilon`.

    Raises:
      ValueError: one of ``gradients`` and ``host`` without the other: a host's network is always trained.
    """
    if protection.gradients is not None and protection.host is None:
        raise ArgumentError("protection.host", "a mechanism, as of protection.gradients", "none")
    return _epsilon(protection.gradients, protection.host, ("gradients", "host"), examples, delta)


def calibrated(
    epsilon: float,
    delta: float | None = None,
    *,
    examples: int,
    passes: int,
    clipping: tuple[float, float],
    batch_size: int = 0,
    trained: bool = True,
) -> tuple[Mechanism, Mechanism | None]:
    """The mechanisms of messages at the cut and of gradients, with the least noise for an epsilon.

    Args:
      epsilon: of an example's data at one institution.
      delta: as in `guest_epsilon`.
      examples: of the training.
      passes: over them.
      clipping: bounds on an example's message and on its gradient.
      batch_size: as in `fixed_mechanism`.
      trained: False of a network that is never trained and whose activations are sent once.

    Returns:
      (of messages, of gradients), with the same noise multiplier; None without training.

    Raises:
      ValueError: arguments out of range.
    """
    size = {"examples": examples, "batch_size": batch_size}
    parts = [(fixed_mechanism(clipping[0], 1.0, passes=passes if trained else 1, **size), 1)]
    if trained:
        parts.append((fixed_mechanism(clipping[1], 1.0, passes=passes, **size), 1))
    noise = calibrate_noise_multiplier(epsilon, parts, units=[examples], delta=delta).noise_multiplier
    own = {**size, "passes": passes if trained else 1}
    cut = fixed_mechanism(clipping[0], noise, **own)
    return cut, fixed_mechanism(clipping[1], noise, **own) if trained else None


def _epsilon(
    cut: Mechanism | None,
    gradient: Mechanism | None,
    names: tuple[str, str],
    examples: int,
    delta: float | None,
) -> float:
    if cut is None:
        if gradient is not None:
            raise ArgumentError(f"protection.{names[0]}", f"a mechanism, as of protection.{names[1]}", "none")
        return float("inf")
    parts = [(mechanism, 1) for mechanism in (cut, gradient) if mechanism is not None]
    return epsilon_of(composed(parts, examples), default_delta(delta, examples))
