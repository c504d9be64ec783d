"""Checks that labels are classes, and what becomes of those that are not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.types import Batch


def check_labels(data: Any, key: str, classes: int, ignore: int | None = None) -> None:
    """Raises unless the valid labels of client data are classes: to be called when data enter.

    Args:
      data: anything with ``examples`` (dict of arrays (clients, examples, ...)), ``valid`` (clients,
        examples) and perhaps ``names`` of the clients.
      key: of the labels among the examples, for instance "label" or "segmentation".
      classes: their number; labels are whole numbers from 0 to ``classes`` - 1.
      ignore: a further label that is allowed, of what is not to be scored.

    Raises:
      ValueError: for another label; names the client and the example.
    """
    labels, valid = np.asarray(data.examples[key]), np.asarray(data.valid)
    wrong = valid.reshape(valid.shape + (1,) * (labels.ndim - 2)) & ~np.asarray(
        is_class(labels, classes, ignore)
    )
    if not wrong.any():
        return
    first = tuple(np.argwhere(wrong)[0])
    names = getattr(data, "names", None)
    client = repr(names[first[0]]) if names else str(first[0])
    found = f"{labels[first].item()!r} (client {client}, example {first[1]}); {_ADVICE}"
    raise ArgumentError(key, _expected(classes, ignore), found)


_ADVICE = "leave such examples out, or name the label as the task's ignore"


def _expected(classes: int, ignore: int | None) -> str:
    return f"whole numbers from 0 to {classes - 1}" + ("" if ignore is None else f" or {ignore}")


def is_class(labels: Any, classes: int, ignore: int | None = None) -> Any:
    """Whether labels, in any numeric dtype, are whole numbers from 0 to ``classes`` - 1, or ``ignore``."""
    xp = np if isinstance(labels, np.ndarray) else jnp
    if labels.dtype == bool:
        return xp.ones(labels.shape, bool)
    known = (labels >= 0) & (labels < classes)
    if xp.issubdtype(labels.dtype, xp.floating):
        known &= labels == xp.round(labels)
    return known if ignore is None else known | (labels == ignore)


def examined(batch: Batch, key: str, classes: int, ignore: int | None = None) -> tuple[jax.Array, jax.Array]:
    """Which valid examples have a label that is no class, and what is to be scored.

    Args:
      batch: ``batch[key]`` (examples, ...) and "valid" (examples,).
      key: of the labels.
      classes: their number.
      ignore: the label of what is not scored.

    Returns:
      (wrong, scored): bool (examples,), and bool like the labels, False at padding and at ``ignore``.

    Raises:
      ValueError: outside of compiled functions, where the labels can be seen, as `check_labels`.
    """
    labels, valid = jnp.asarray(batch[key]), jnp.asarray(batch["valid"])
    each = valid.reshape(-1, *(1,) * (labels.ndim - 1))
    wrong = each & ~is_class(labels, classes, ignore)
    if not isinstance(wrong, jax.core.Tracer) and bool(wrong.any()):
        first = tuple(np.argwhere(np.asarray(wrong))[0])
        found = f"{labels[first].item()!r} (example {first[0]}); {_ADVICE}"
        raise ArgumentError(key, f"{_expected(classes, ignore)} where valid", found)
    scored = jnp.broadcast_to(each, labels.shape)
    scored = scored if ignore is None else scored & (labels != ignore)
    return wrong.reshape(len(valid), -1).any(1), scored


def spoil(losses: jax.Array, logits: jax.Array, wrong: jax.Array) -> jax.Array:
    """``losses`` with NaN for examples of a wrong label, also in the gradient of the ``logits``.

    The loss is then reported as not finite and the client left out of its round, instead of the label
    counting as another class.

    Args:
      losses: (examples,), or () of all together.
      logits: (examples, ...), what the losses are of.
      wrong: bool like ``losses``.
    """
    # What is not selected has no NaN in its gradient either.
    watched = jnp.where(wrong.reshape(wrong.shape + (1,) * (logits.ndim - wrong.ndim)), logits, 0)
    poison = (jnp.nan * watched).sum(range(wrong.ndim, logits.ndim))
    return jnp.where(wrong, poison, losses)
