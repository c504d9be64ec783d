"""Leaving faulty clients out of the mean, and saying which they are."""

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Context, Message, Reducer, Upload, stateless
from fedrecon.federated.reducers.robust import kinds_of_messages, lengths, lower_median, median, unweighted
from fedrecon.federated.trees import along
from fedrecon.types import PyTree


def screen(
    reduce: Reducer | None = None, *, norm_factor: float | None = 10.0, min_cosine: float | None = None
) -> Reducer:
    """A reducer that first leaves out clients whose updates explode or point the wrong way.

    Judged is each client's change of the shared parameters, without its weight and as the channel encoded
    it, once per round and without memory of earlier ones. Left out are

      exploding: an l2 norm above ``norm_factor`` times the median of the norms that are not zero (the lower
        of the two middle ones if their number is even), of the change or of a kind of message;
      reversed: among the rest, a cosine with the coordinate-wise median of the updates below ``min_cosine``.
        A change of zero has no direction and passes.

    The round reports them in ``RoundInfo.excluded``: neither update nor message nor metrics of them count,
    and what they keep, their history too, stays as before the round. Updates that are not finite and clients
    without examples never get here; the round leaves them out itself. While fewer than half of the clients
    explode, and fewer than half of the rest are reversed, the medians are those of honest clients.

    Honest clients differ in size and direction, the more so the less alike their data are: norms grow with
    the number of local steps, and near a common optimum changes of unlike clients are opposed. With data that
    are not alike, allow for this in ``norm_factor`` and leave ``min_cosine`` out or well below 0.

    Args:
      reduce: what reduces the uploads that remain; None adds them.
      norm_factor: at least 1, or None for no bound on norms.
      min_cosine: in (-1, 1), or None for no bound on directions.

    Returns:
      a `Reducer` that flags whom it leaves out. It sees each client's update, and is therefore no part of
      secure aggregation.

    Raises:
      ValueError: for arguments out of range.
    """
    if norm_factor is not None and not norm_factor >= 1:
        raise ArgumentError("norm_factor", "a number of at least 1 or None", repr(norm_factor))
    if min_cosine is not None and not -1 < min_cosine < 1:
        raise ArgumentError("min_cosine", "a number in (-1, 1) or None", repr(min_cosine))

    inner = reduce or total()

    def screened(uploads, included, state, context):
        sent = unweighted(uploads, included)
        updates, passed = sent.delta.params, included
        norms = lengths(updates)
        if norm_factor is not None:
            for sizes in (norms, *map(lengths, kinds_of_messages(sent.message))):
                passed &= ~(sizes > norm_factor * lower_median(sizes, included & (sizes > 0)))
        if min_cosine is not None:
            passed &= ~(_cosines(updates, norms, passed, context) < min_cosine)
        reduction = inner.reduce(uploads, passed, state, context)
        flagged = included & ~passed
        if reduction.flagged is not None:
            flagged |= reduction.flagged
        return reduction._replace(flagged=flagged)

    return Reducer(inner.init, screened, answer=inner.answer)


def total() -> Reducer:
    """The plain sum, as without a reducer."""
    return stateless(_sum)


def _sum(uploads: Upload, included: jax.Array) -> Upload:
    return jax.tree.map(
        lambda x: jnp.where(along(included, x), x, 0).sum(0, dtype=x.dtype),
        uploads,
    )


def _cosines(updates: PyTree, norms: jax.Array, chosen: jax.Array, context: Context) -> jax.Array:
    """(clients,): cosine of every update with the median of the chosen ones; 1 where one of them is zero."""
    weights = jnp.ones(chosen.shape, jnp.float32)
    uploads = Upload(updates, Message(), weights)
    middle = median().reduce(uploads, chosen, (), context).upload.delta
    length = optax.tree.norm(middle)
    # Divided first: the product of two norms may overflow.
    safe, unit = jnp.where(norms > 0, norms, 1), jnp.where(length > 0, length, 1)
    products = jax.tree.map(
        lambda x, m: ((x / along(safe, x)) * (m / unit)).reshape(len(x), -1).sum(1), updates, middle
    )
    return jnp.where((norms > 0) & (length > 0), sum(jax.tree.leaves(products)), 1)
