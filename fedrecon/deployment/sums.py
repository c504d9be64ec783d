"""The secure sum of a round between sites: the engine's words of fixed point, masked by SecAgg."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from fedrecon.deployment.errors import DeploymentError
from fedrecon.secure_aggregation import SecAggSetup
from fedrecon.training import FederationSettings
from fedrecon.training.secure import check_secure, make_setup
from fedrecon.types import PyTree

# Attempts at one sum; each has keys of its own.
MOST_ATTEMPTS = 2**10


def setup_of(
    settings: FederationSettings, job: str, round: int, attempt: int, clients: int, size: int
) -> SecAggSetup:
    """What the parties of one sum agree on.

    Args:
      settings: of the federation.
      job: its name.
      round: from 0.
      attempt: at the sum of this round, from 0.
      clients: who take part.
      size: words of a client.
    """
    setup = make_setup(settings, check_secure(settings), clients, size)
    if not isinstance(setup, SecAggSetup):
        raise DeploymentError("secure_aggregation", "secagg or secagg+", settings.secure_aggregation)
    if not 0 <= attempt < MOST_ATTEMPTS:
        raise DeploymentError("attempt", f"0 to {MOST_ATTEMPTS - 1}", attempt)
    return dataclasses.replace(setup, job=job, round=round * MOST_ATTEMPTS + attempt)


def as_words(upload: PyTree) -> np.ndarray:
    """uint32 (size,): the encoded numbers of an upload, leaf by leaf.

    Raises:
      DeploymentError: a leaf has another dtype.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(upload)]
    if wrong := [leaf.dtype for leaf in leaves if leaf.dtype != np.uint32]:
        raise DeploymentError("upload", "words of uint32 in a secure sum", wrong[0])
    return np.concatenate([leaf.ravel() for leaf in leaves])


def as_upload(words: np.ndarray, like: PyTree) -> PyTree:
    """The pytree whose leaves `as_words` has joined, of the shapes of ``like``."""
    leaves, structure = jax.tree.flatten(like)
    parts: Sequence[np.ndarray] = np.split(words, np.cumsum([leaf.size for leaf in leaves])[:-1])
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def words_in(like: PyTree) -> int:
    """Words of an upload of these shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(like))
