"""Malicious clients in the simulated round: what they do to their examples and to what they send.

`poison` returns the same algorithm with chosen clients that attack. Attacks on examples and on one's own
update happen at the client and pass any channel, a secure sum, too. Those that fit their update to others
(`alie`, `inner_product`) stand for colluding clients that know all honest updates, the worst case; they are
simulated at the server and need its sight of single updates.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.attacks.riding import Ride, disguised_noise, echo, false_size, stale
from fedrecon.errors import ArgumentError
from fedrecon.federated import Batches, ClientResult, Context, FederatedAlgorithm, Reducer, Upload
from fedrecon.federated.reducers import Reduction, client_numbers, total, unweighted
from fedrecon.types import Batch, PyTree, Variables


class Attack(NamedTuple):
    """What a malicious client does; fields are optional.

    Attributes:
      examples: ``examples(batch) -> batch``, of all its examples before they are trained on.
      update: ``update(delta, key) -> delta``, of its own change of the model.
      answers: ``answers(gathered, key) -> gathered``, of what it sends for the server to see client by client
        (answers to images), a pytree of arrays.
      collude: ``collude(updates, honest) -> update``, of leaves (clients, ...) and bool (clients,): what
        every attacker sends.
      ride: a free rider's memory and message.
    """

    examples: Callable[[Batch], Batch] | None = None
    update: Callable[[PyTree, jax.Array], PyTree] | None = None
    answers: Callable[[PyTree, jax.Array], PyTree] | None = None
    collude: Callable[[PyTree, jax.Array], PyTree] | None = None
    ride: Ride | None = None


def sign_flip(scale: float = 1.0) -> Attack:
    """Sends minus ``scale`` times the change.

    Raises:
      ValueError: if ``scale`` is not positive.
    """
    _positive("scale", scale)
    return Attack(update=lambda delta, key: _times(-scale, delta))


def gaussian(deviation: float = 1.0) -> Attack:
    """Sends white noise of this standard deviation.

    Raises:
      ValueError: if ``deviation`` is not positive.
    """
    _positive("deviation", deviation)
    return Attack(update=lambda delta, key: _noise(delta, key, deviation))


def free_rider(deviation: float = 0.0) -> Attack:
    """Sends no change, or noise of this deviation in its place, for a model that it did not work for.

    Raises:
      ValueError: if ``deviation`` is negative.
    """
    if not deviation >= 0:
        raise ArgumentError("deviation", "a number of at least 0", repr(deviation))
    return Attack(update=lambda delta, key: _noise(delta, key, deviation))


def label_flip(classes: int = 2) -> Attack:
    """Trains on class k as ``classes - 1 - k``, of "label" and of "segmentation".

    Labels that are no class stay. Examples without either are refused.

    Raises:
      ValueError: fewer than two classes; from the round, examples without labels.
    """
    if classes < 2:
        raise ArgumentError("classes", "at least 2", repr(classes))

    def examples(batch: Batch) -> Batch:
        names = [name for name in ("label", "segmentation") if name in batch]
        if not names:
            raise ArgumentError("attack", "examples with labels or masks to flip", sorted(batch))

        def flipped(x: jax.Array) -> jax.Array:
            return jnp.where((x >= 0) & (x < classes), classes - 1 - x, x).astype(x.dtype)

        return {**batch, **{name: flipped(batch[name]) for name in names}}

    return Attack(examples)


def backdoor(target: int = 0, size: int = 3, part: float = 0.5, boost: float = 1.0) -> Attack:
    """Model replacement (Bagdasaryan et al. 2020): images with `trigger` are learned to be of one class.

    Args:
      target: that class.
      size: edge of the trigger, in pixels.
      part: of the attacker's examples that get the trigger, the first ones.
      boost: what its change is multiplied by: the number of clients replaces the mean by its model.

    Raises:
      ValueError: for arguments out of range; from the round, examples without "image" and "label".
    """
    _positive("boost", boost)
    if target < 0 or size < 1 or not 0 < part <= 1:
        expected = "a class, a positive edge, and a part in (0, 1]"
        raise ArgumentError("target, size, part", expected, (target, size, part))

    def examples(batch: Batch) -> Batch:
        if "image" not in batch or "label" not in batch:
            raise ArgumentError("attack", "examples with image and label", sorted(batch))
        count = batch["label"].shape[0]
        chosen = jnp.arange(count) < max(1, round(part * count))
        images = jnp.where(chosen[:, None, None, None], trigger(batch["image"], size), batch["image"])
        label = jnp.where(chosen, target, batch["label"]).astype(batch["label"].dtype)
        return {**batch, "image": images, "label": label}

    return Attack(examples, lambda delta, key: _times(boost, delta) if boost != 1 else delta)


def trigger(images: jax.Array, size: int = 3) -> jax.Array:
    """Images (examples, ny, nx, channels) with a square in the last corner, as bright as the brightest."""
    most = images.max((1, 2, 3), keepdims=True)
    return images.at[:, -size:, -size:].set(jnp.broadcast_to(most, images[:, -size:, -size:].shape))


def answer_flip(scale: float = 1.0) -> Attack:
    """Sends minus ``scale`` times its answers (logits on the images that the server asks about).

    Raises:
      ValueError: if ``scale`` is not positive; from the round, a method without such answers.
    """
    _positive("scale", scale)

    def answers(gathered: PyTree, key: jax.Array) -> PyTree:
        if not jax.tree.leaves(gathered):
            expected = "a method whose clients send answers that the server sees one by one"
            raise ArgumentError("attack", expected, "none")
        return _times(-scale, gathered)

    return Attack(answers=answers)


def alie(deviations: float = 1.5) -> Attack:
    """A little is enough (Baruch et al. 2019): the honest mean minus some honest standard deviations.

    Args:
      deviations: z, as many as hide among honest clients.

    Raises:
      ValueError: if ``deviations`` is not positive.
    """
    _positive("deviations", deviations)

    def collude(updates: PyTree, honest: jax.Array) -> PyTree:
        def one(x: jax.Array) -> jax.Array:
            mean = _mean(x, honest)
            return mean - deviations * jnp.sqrt(_mean((x - mean) ** 2, honest))

        return jax.tree.map(one, updates)

    return Attack(collude=collude)


def inner_product(strength: float = 1.0) -> Attack:
    """Inner-product manipulation (Xie et al. 2020): minus ``strength`` times the honest mean.

    Raises:
      ValueError: if ``strength`` is not positive.
    """
    _positive("strength", strength)
    return Attack(
        collude=lambda updates, honest: jax.tree.map(lambda x: -strength * _mean(x, honest), updates)
    )


# Names of attacks, for settings; annotated parameters are their options.
ATTACKS: dict[str, Callable[..., Attack | Ride]] = {
    "sign_flip": sign_flip,
    "gaussian": gaussian,
    "label_flip": label_flip,
    "backdoor": backdoor,
    "free_rider": free_rider,
    "echo": echo,
    "stale": stale,
    "disguised_noise": disguised_noise,
    "false_size": false_size,
    "answer_flip": answer_flip,
    "alie": alie,
    "inner_product": inner_product,
}


def poison(
    algorithm: FederatedAlgorithm, attack: Attack | Ride, clients: Sequence[int]
) -> FederatedAlgorithm:
    """The algorithm with these clients as attackers; all others compute as before, bit for bit.

    Sums and numbers that methods send besides the change of the model are sent as they are.

    Args:
      algorithm: of any recipe.
      attack: what they do; a free rider by its `Ride`.
      clients: their numbers; without any the algorithm is returned as it is.

    Raises:
      ValueError: a number is negative, the method sends no change of a model that could be attacked, or the
        attack needs to see updates that the channel hides.
    """
    attack = Attack(ride=attack) if isinstance(attack, Ride) else attack
    numbers = sorted(set(map(int, clients)))
    if not numbers:
        return algorithm
    if numbers[0] < 0:
        raise ArgumentError("clients", "numbers of clients", numbers[0])
    table = np.zeros(numbers[-1] + 2, bool)
    table[numbers] = True

    def malicious(client: jax.Array) -> jax.Array:
        return jnp.asarray(table)[jnp.minimum(client, len(table) - 1)]

    shares = any(leaf is True for leaf in jax.tree.leaves(algorithm.share_mask))
    if not shares and any(x is not None for x in (attack.update, attack.collude, attack.ride)):
        expected = "one on examples or answers, for a method that sends no change of a model"
        raise ArgumentError("attack", expected, "one on that change")
    if any(part is not None for part in (attack.examples, attack.update, attack.answers)):
        algorithm = _at_clients(algorithm, attack, malicious)
    if attack.ride is not None:
        algorithm = _riding(algorithm, attack.ride, malicious)
    if attack.collude is None:
        return algorithm
    if not algorithm.channel.linear:
        expected = "one whose uploads are updates, for an attack that fits itself to the others'"
        raise ArgumentError("channel", expected, "one that hides them")
    return algorithm._replace(reduce=_colluding(algorithm.reduce, attack.collude, malicious))


def _at_clients(
    algorithm: FederatedAlgorithm, attack: Attack, malicious: Callable[[jax.Array], jax.Array]
) -> FederatedAlgorithm:
    def update(
        variables: Variables,
        broadcast: PyTree,
        state: PyTree,
        batches: Batches,
        valid: jax.Array,
        key: jax.Array,
    ) -> ClientResult:
        bad = malicious(batches.client)
        if attack.examples is not None:
            changed = attack.examples(batches.examples)
            examples = {k: jnp.where(bad, changed[k], x) for k, x in batches.examples.items()}
            batches = batches._replace(examples=examples)
        result = algorithm.client.update(variables, broadcast, state, batches, valid, key)
        key = jax.random.fold_in(key, 0x61)

        def where_bad(sent: PyTree, honest: PyTree) -> PyTree:
            return jax.tree.map(lambda new, old: jnp.where(bad, new, old).astype(old.dtype), sent, honest)

        if attack.update is not None:
            result = result._replace(delta=where_bad(attack.update(result.delta, key), result.delta))
        if attack.answers is not None:
            gathered = result.message.gathered
            flipped = where_bad(attack.answers(gathered, key), gathered)
            result = result._replace(message=result.message._replace(gathered=flipped))
        return result

    return algorithm._replace(client=algorithm.client._replace(update=update))


class _Riding(NamedTuple):
    """What stays at a client of whom some ride."""

    own: PyTree
    memory: PyTree


def _riding(
    algorithm: FederatedAlgorithm, ride: Ride, malicious: Callable[[jax.Array], jax.Array]
) -> FederatedAlgorithm:
    client, personalize = algorithm.client, algorithm.personalize

    def update(
        variables: Variables,
        broadcast: PyTree,
        state: _Riding,
        batches: Batches,
        valid: jax.Array,
        key: jax.Array,
    ) -> ClientResult:
        bad = malicious(batches.client)
        if ride.keep:
            place = jnp.arange(len(batches.present))
            present = batches.present & (~bad | (place < ride.keep))
            valid = valid & (~bad | (batches.index < ride.keep))
            counted = jnp.where(bad, ride.claim * batches.count, batches.count)
            batches = batches._replace(present=present)
        result = client.update(variables, broadcast, state.own, batches, valid, key)
        sent, memory = ride.send(state.memory, variables, result.delta, jax.random.fold_in(key, 0x61))
        delta = jax.tree.map(lambda new, old: jnp.where(bad, new, old).astype(old.dtype), sent, result.delta)
        weight = counted.astype(result.weight.dtype) if ride.keep else result.weight
        return result._replace(delta=delta, weight=weight, client_state=_Riding(result.client_state, memory))

    def rollback(before: _Riding, after: _Riding) -> _Riding:
        own = client.rollback(before.own, after.own) if client.rollback else before.own
        return _Riding(own, after.memory)

    wrapped = client._replace(
        init=lambda variables: _Riding(client.init(variables), ride.begin(variables)),
        update=update,
        rollback=rollback,
    )
    return algorithm._replace(
        client=wrapped,
        personalize=lambda variables, state, batch: personalize(variables, state.own, batch),
    )


def _colluding(inner: Reducer | None, collude: Callable, malicious: Callable) -> Reducer:
    kept = inner or total()

    def reduce(uploads: Upload, included: jax.Array, state: PyTree, context: Context) -> Reduction:
        bad = malicious(client_numbers(context, len(included)))
        crafted = collude(unweighted(uploads, included).delta, included & ~bad)

        def put(weight: jax.Array, mine: PyTree, theirs: PyTree) -> PyTree:
            def one(v: jax.Array, x: jax.Array) -> jax.Array:
                w = weight.reshape(-1, *(1,) * (x.ndim - 1))
                chosen = bad.reshape(-1, *(1,) * (x.ndim - 1))
                return jnp.where(chosen, w * v[None], x).astype(x.dtype)

            return jax.tree.map(one, mine, theirs)

        # Without an honest client there is nothing to fit to.
        poisoned = jax.tree.map(put, uploads.weight, crafted, uploads.delta)
        poisoned = jax.tree.map(
            lambda new, old: jnp.where((included & ~bad).any(), new, old), poisoned, uploads.delta
        )
        return kept.reduce(uploads._replace(delta=poisoned), included, state, context)

    return Reducer(kept.init, reduce, answer=kept.answer)


def _mean(x: jax.Array, chosen: jax.Array) -> jax.Array:
    flags = chosen.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(flags, x, 0).sum(0) / jnp.maximum(chosen.sum(), 1)


def _times(factor: float, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: (factor * x).astype(x.dtype), tree)


def _noise(tree: PyTree, key: jax.Array, deviation: float) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))

    def one(x: jax.Array, k: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.zeros_like(x)
        return deviation * jax.random.normal(k, x.shape, x.dtype)

    return jax.tree.unflatten(structure, [one(x, k) for x, k in zip(leaves, keys, strict=False)])


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ArgumentError(name, "a positive number", repr(value))
