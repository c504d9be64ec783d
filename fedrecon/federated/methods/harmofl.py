"""HarmoFL: images with one amplitude, and gradients of perturbed weights."""

from typing import Any

import jax
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.method import Method, combine
from fedrecon.federated.methods.scaffold import scaffold
from fedrecon.federated.recipe import federated
from fedrecon.federated.sampling import by_examples, equal
from fedrecon.types import Task


def perturbed(strength: float) -> Method:
    """Gradients at perturbed weights (equation 4): ``g' = grad L(w + alpha g / (|g| + 1e-12))``.

    g is the gradient of the same batch at w, over all leaves; loss, metrics and statistics are those at w.

    Raises:
      ValueError: the strength is negative.
    """
    if not strength >= 0:
        raise ArgumentError("strength", "a number of at least 0", repr(strength))
    if strength == 0:
        return Method()

    def oracle(value_and_grad):
        def at_perturbed(params, stats, batch, memory, key):
            evaluation, gradient = value_and_grad(params, stats, batch, memory, key)
            scale = strength / (optax.tree.norm(gradient) + 1e-12)
            ahead = jax.tree.map(lambda w, g: (w + scale * g).astype(w.dtype), params, gradient)
            return evaluation, value_and_grad(ahead, stats, batch, memory, key)[1]

        return at_perturbed

    return Method(oracle=oracle)


def harmofl(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    strength: float = 0.05,
    by_size: bool = False,
    method: Method | None = None,
    **options: Any,
) -> FederatedAlgorithm:
    """HarmoFL (Jiang, Wang and Dou 2022, AAAI, arXiv:2112.10775): FedAvg on harmonized images.

    Two drifts are removed: that of local features by `normalized_task` with the amplitude of
    `mean_amplitude`, and that of the global optimum by `perturbed` gradients. Without both and ``by_size`` it
    is FedAvg, bit for bit.

    Deviations: the amplitude is the mean of all batches (the code keeps the first by an integer 0.1; the
    window 0 and the decay 0 are the code's); networks keep the normalization that they have, where the
    publication normalizes by statistics of batches.

    Args:
      task: of `normalized_task`, its amplitude set.
      optimizer: each client's optimizer (in the publication Adam at 1e-4 with weight decay 1e-4).
      strength: alpha, at least 0.
      by_size: clients weigh by their examples, not equally.
      method: further methods.
      **options: as in `federated`, except ``weighting``.

    Raises:
      ValueError: arguments out of range.
    """
    if "weighting" in options:
        raise TypeError("harmofl() takes no argument 'weighting': it brings its own")
    weighting = by_examples if by_size else equal
    return federated(
        task, optimizer, method=combine(perturbed(strength), method), weighting=weighting, **options
    )


def harmofl_scaffold(
    task: Task, learning_rate: float, *, strength: float = 0.05, method: Method | None = None, **options: Any
) -> FederatedAlgorithm:
    """`harmofl` with the control variates of `scaffold`: harmonized images, no drift of clients.

    Gradients at perturbed weights are corrected by ``c - c_i``, and these are renewed from the path of the
    round. Strength 0 is SCAFFOLD on the task, bit for bit.

    Args:
      task: of `normalized_task`, its amplitude set.
      learning_rate: of plain gradient descent at clients.
      strength: alpha, at least 0.
      method: further methods.
      **options: as in `scaffold`.

    Raises:
      ValueError: arguments out of range.
    """
    return scaffold(task, learning_rate, method=combine(perturbed(strength), method), **options)
