"""Defenses that bound what one client can add, and a test set that the server trusts.

Like all reducers that see single updates they are no part of secure aggregation.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.messages import Context, Message, Reducer, Reduction, Upload
from fedrecon.federated.reducers.robust import lengths, lower_median, result_of, unweighted
from fedrecon.federated.trees import along
from fedrecon.types import PyTree

# Of the running median of norms that a round leaves as it was.
_KEPT = 0.9


def norm_bound(factor: float = 1.0) -> Reducer:
    """The mean of updates that are scaled down to the running median of their norms (Sun et al. 2019).

    The bound is ``factor`` times an exponential mean, over rounds, of the median norm of a round (the lower
    of the two middle ones); in the first round it is that round's. Clients count alike. Messages are not
    bounded.

    Raises:
      ValueError: if ``factor`` is not positive.
    """
    if not factor > 0:
        raise ArgumentError("factor", "a positive number", repr(factor))

    def reduce(uploads, included, state, context):
        del context
        sent = unweighted(uploads, included)
        norms = lengths(sent.delta)
        now = lower_median(norms, included & (norms > 0))
        now = jnp.where(jnp.isfinite(now), now, state)
        running = jnp.where(state > 0, _KEPT * state + (1 - _KEPT) * now, now)
        share = jnp.minimum(1, factor * running / jnp.maximum(norms, 1e-30))
        reduced = sent._replace(delta=_average(_scaled(sent.delta, share), included))
        return Reduction(_finished(reduced, sent, included), running, None, {"bound": factor * running})

    return Reducer(lambda upload: jnp.float32(0), reduce)


def centered_clipping(radius: float = 1.0, iterations: int = 3) -> Reducer:
    """Centered clipping (Karimireddy et al. 2021): ``v <- v + mean clip(update_i - v, tau)``, repeated.

    v starts at the aggregate of the last round (0 before the first), tau is ``radius`` times the median of
    the distances to it. Clients count alike. Messages are averaged as they are.

    Where a part d of the clients sends the same far point, and honest updates lie at a distance s around
    their mean, v settles at ``s a / sqrt(1 - a^2)`` from that mean, with a = max(radius, 1) d / (1 - d). From
    a = 1 on, that is radius = (1 - d) / d, nothing is clipped in the end, and v is the plain mean: a radius
    of 1 withstands any minority, 3 less than a quarter, 10 less than one in eleven. In the paper tau is a
    fixed length, which the median of growing distances is not.

    Args:
      radius: of the ball around v, in medians of the distances; below the ratio of honest to malicious
        clients.
      iterations: inner steps.

    Raises:
      ValueError: for arguments that are not positive.
    """
    if not radius > 0:
        raise ArgumentError("radius", "a positive number", repr(radius))
    if iterations < 1:
        raise ArgumentError("iterations", "a positive integer", repr(iterations))

    def reduce(uploads, included, state, context):
        del context
        sent = unweighted(uploads, included)

        def step(center, _):
            apart = jax.tree.map(lambda x, v: x - v[None], sent.delta, center)
            sizes = lengths(apart)
            bound = radius * lower_median(sizes, included)
            share = jnp.minimum(1, bound / jnp.maximum(sizes, 1e-30))
            moved = _average(_scaled(apart, share), included)
            return jax.tree.map(lambda v, m: (v + m).astype(v.dtype), center, moved), None

        center, _ = jax.lax.scan(step, state, length=iterations)
        center = jax.tree.map(lambda new, old: jnp.where(included.any(), new, old), center, state)
        return Reduction(_finished(sent._replace(delta=center), sent, included), center)

    return Reducer(lambda upload: jax.tree.map(jnp.zeros_like, upload.delta), reduce)


def fltrust(root: int = 0) -> Reducer:
    """FLTrust (Cao et al. 2021): updates count by their cosine with that of data that the server trusts.

    The server's own examples enter as the client ``root``, which trains like all others. The update of client
    i is scaled to the norm of the root's and weighed by ``max(0, cosine with the root's)``; the root's own is
    not added. A round without the root, or of which nobody agrees with it, is not applied.

    Args:
      root: number of the client that holds the server's examples.

    Raises:
      ValueError: if ``root`` is negative.
    """
    if not isinstance(root, int) or root < 0:
        raise ArgumentError("root", "the number of a client", repr(root))

    def reduce(uploads, included, state, context):
        sent = unweighted(uploads, included)
        numbers = client_numbers(context, len(included))
        trusted = included & (numbers == root)
        own = jax.tree.map(lambda x: jnp.where(along(trusted, x), x, 0).sum(0), sent.delta)
        norms, size = lengths(sent.delta), optax.tree.norm(own)
        product = sum(
            jnp.tensordot(x.reshape(len(x), -1), v.reshape(-1), 1)
            for x, v in zip(jax.tree.leaves(sent.delta), jax.tree.leaves(own), strict=True)
        )
        cosine = product / jnp.maximum(norms * size, 1e-30)
        trust = jnp.where(included & ~trusted, jnp.maximum(cosine, 0), 0)
        scaled = _scaled(sent.delta, trust * size / jnp.maximum(norms, 1e-30))
        total = trust.sum()
        delta = jax.tree.map(lambda x: (x.sum(0) / jnp.maximum(total, 1e-30)).astype(x.dtype), scaled)
        upload = _finished(sent._replace(delta=delta), sent, included & ~trusted)
        upload = upload._replace(weight=jnp.where(trusted.any() & (total > 0), 1, 0).astype(jnp.float32))
        return Reduction(upload, state, None, {"trust": trust})

    return Reducer(lambda upload: (), reduce)


def bucketing(inner: Reducer, size: int = 2) -> Reducer:
    """Bucketing (Karimireddy, He and Jaggi 2022): a robust reducer of means of random groups of clients.

    Where clients differ, single honest updates look like attacks; means of ``size`` of them differ less, at
    the price that a bucket with one attacker is lost: what withstands f clients withstands f buckets.

    Args:
      inner: reduces the means of the buckets; whom it flags is not told apart.
      size: clients in a bucket; the last may have fewer.

    Raises:
      ValueError: if ``size`` is not positive.
    """
    if size < 1:
        raise ArgumentError("size", "a positive integer", repr(size))

    def reduce(uploads, included, state, context):
        sent, rows = unweighted(uploads, included), len(included)
        buckets = -(-rows // size)
        # Those who are not there come last, so that buckets are full but for one.
        order = jnp.lexsort((jax.random.uniform(jax.random.fold_in(context.key, 7), (rows,)), ~included))
        place = jnp.zeros(rows, jnp.int32).at[order].set(jnp.arange(rows, dtype=jnp.int32) // size)
        counts = jax.ops.segment_sum(included.astype(jnp.float32), place, buckets)
        mean = functools.partial(_bucket_means, place=place, counts=counts)
        grouped = Upload(mean(sent.delta), mean(sent.message), (counts > 0).astype(jnp.float32))
        reduction = inner.reduce(grouped, counts > 0, state, context._replace(rows=None))
        found = reduction.upload
        # A robust rule gives summed messages as its mean times the number of what it saw.
        factor = included.sum() / jnp.maximum((counts > 0).sum(), 1)
        summed = jax.tree.map(lambda x: (x * factor).astype(x.dtype), found.message.summed)
        upload = found._replace(message=found.message._replace(summed=summed))
        return reduction._replace(upload=upload, flagged=None)

    return Reducer(inner.init, reduce)


def _bucket_means(tree: PyTree, place: jax.Array, counts: jax.Array) -> PyTree:
    """Means (buckets, ...) of leaves (clients, ...) that are zero where nothing counts."""
    buckets = len(counts)

    def one(x):
        total = jax.ops.segment_sum(x, place, buckets)
        return (total / along(jnp.maximum(counts, 1), total)).astype(x.dtype)

    return jax.tree.map(one, tree)


def _scaled(tree: PyTree, factors: jax.Array) -> PyTree:
    return jax.tree.map(lambda x: (x * along(factors, x)).astype(x.dtype), tree)


def _average(tree: PyTree, included: jax.Array) -> PyTree:
    """Mean over included clients of leaves (clients, ...) that are zero for others."""
    count = jnp.maximum(included.sum(), 1)
    return jax.tree.map(lambda x: (x.sum(0) / count).astype(x.dtype), tree)


def _finished(reduced: Upload, sent: Upload, included: jax.Array) -> Upload:
    """The upload with the plain mean of the messages."""
    kept = jax.tree.map(lambda x: jnp.where(along(included, x), x, 0), sent.message)
    message = Message(*_average(kept, included))
    return result_of(reduced._replace(message=message), included, included.any())


def client_numbers(context: Context, rows: int) -> jax.Array:
    """Numbers of the clients of a reducer's rows."""
    return jnp.arange(rows) if context.rows is None else context.rows
