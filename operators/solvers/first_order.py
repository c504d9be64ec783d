"""First-order solvers of convex problems: FISTA, POGM, ADMM and the primal-dual method of Chambolle and Pock.

A term of the objective enters by its gradient or by its proximal map
``prox(v, step) = argmin_x step * g(x) + 1/2 |x - v|^2`` (see ``proximal.py``). What all solvers share:

- ``iterations``, ``tolerance``, ``objective`` and ``callback`` are those of
  :class:`operators.solvers.Stopping`.
- With ``key`` the proximal map is random: it is called as ``prox(v, step, key_k)``, ``key_k`` being ``key``
  folded with the index of the iteration, so that a run is reproducible.
- All axes of x are one vector (step sizes, restarts and stopping are common); for independent problems use
  ``jax.vmap``. Inside ``jax.shard_map`` the start must vary over the mesh axes over which the data vary:
  make it of them, as in ``jnp.zeros_like(A.H(y))``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from operators.algebra import ArgumentError, LinearOperator, as_inexact, real_dtype
from operators.solvers.linear import cg, inner_product, largest_eigenvalue, positive, vector_norm
from operators.solvers.stopping import (
    Callback,
    Objective,
    SolverInfo,
    Stopping,
    relative_change,
    relative_norm,
)

# Power iteration approaches the norm from below.
_NORM_MARGIN = 1.04


def fista(
    gradient: Callable[[jax.Array], jax.Array],
    prox: Callable[..., jax.Array],
    x0: jax.Array,
    *,
    lipschitz: float | jax.Array | None = None,
    iterations: int = 100,
    tolerance: float | None = None,
    restart: bool = True,
    key: jax.Array | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """Minimizes ``f(x) + g(x)``, f smooth and g with a proximal map, by accelerated proximal gradients.

    For least squares ``f(x) = 1/2 |A x - y|^2`` the gradient is ``lambda x: A.gram(x) - A.H(y)``, with
    ``A.H(y)`` computed once outside. The module's docstring says how runs stop and are differentiated.

    Args:
      gradient: the gradient of f (for complex x: ``df/d(Re x) + i df/d(Im x)``).
      prox: proximal map of g.
      x0: where to start, real or complex, of any shape.
      lipschitz: Lipschitz constant of the gradient; default: by power iteration on its linear part, which is
        right for quadratic f only.
      iterations: number of steps, or its upper bound.
      tolerance: stops when ``|x_k - x_(k-1)| <= tolerance * |x_k|``; None: never.
      restart: drops the momentum whenever it points uphill (O'Donoghue and Candes 2015).
      key: typed PRNG key of a random proximal map.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Returns:
      (x, :class:`SolverInfo`), x of the shape and dtype of ``x0``.

    Raises:
      ValueError: if ``iterations`` is not positive, or the gradient differs from ``x0`` in shape or dtype.

    Source: Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009; O'Donoghue and Candes, Found. Comput. Math.
    15:715, 2015.

    Example:
      >>> b, prox = jnp.array([3.0, 0.5]), operators.solvers.soft_threshold
      >>> x, info = operators.fista(lambda x: x - b, prox, jnp.zeros(2), lipschitz=1.0)
      >>> print(np.asarray(x).round(3))
      [2. 0.]
    """
    stopping = Stopping("fista", iterations, tolerance, objective, callback)
    x0 = as_inexact(x0)
    bound = _lipschitz(gradient, x0, lipschitz, "fista")

    def step(state, iteration):
        x, ahead, theta = state
        new = _prox(prox, ahead - gradient(ahead) / bound, 1 / bound, key, iteration)
        theta_new = (1 + jnp.sqrt(1 + 4 * theta**2)) / 2
        momentum = (theta - 1) / theta_new
        if restart:
            uphill = inner_product(ahead - new, new - x) > 0
            theta_new, momentum = jnp.where(uphill, 1, theta_new), jnp.where(uphill, 0, momentum)
        return (new, new + momentum * (new - x), theta_new), relative_change(new, x)

    return stopping.run(step, (x0, x0, _one(x0)))


def pogm(
    gradient: Callable[[jax.Array], jax.Array],
    prox: Callable[..., jax.Array],
    x0: jax.Array,
    *,
    lipschitz: float | jax.Array | None = None,
    iterations: int = 100,
    tolerance: float | None = None,
    restart: bool = True,
    key: jax.Array | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """Minimizes ``f(x) + g(x)`` by the proximal optimized gradient method.

    As :func:`fista`, with half its worst-case error for the same gradients; its last step (the one of index
    ``iterations``) is longer than the others, as the method prescribes.

    Args:
      gradient: the gradient of f (for complex x: ``df/d(Re x) + i df/d(Im x)``).
      prox: proximal map of g; its steps vary.
      x0: where to start, real or complex, of any shape.
      lipschitz: Lipschitz constant of the gradient; default: by power iteration on its linear part, which is
        right for quadratic f only.
      iterations: number of steps, or its upper bound.
      tolerance: stops when ``|x_k - x_(k-1)| <= tolerance * |x_k|``; None: never.
      restart: drops the momentum whenever it points uphill (Kim and Fessler 2018).
      key: typed PRNG key of a random proximal map.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Returns:
      (x, :class:`SolverInfo`), x of the shape and dtype of ``x0``.

    Raises:
      ValueError: if ``iterations`` is not positive, or the gradient differs from ``x0`` in shape or dtype.

    Source: Taylor, Hendrickx and Glineur, SIAM J. Optim. 27:1283, 2017; Kim and Fessler, J. Optim. Theory
    Appl. 178:240, 2018.

    Example:
      >>> b, prox = jnp.array([3.0, 0.5]), operators.solvers.soft_threshold
      >>> x, info = operators.pogm(lambda x: x - b, prox, jnp.zeros(2), lipschitz=1.0)
      >>> print(np.asarray(x).round(3))
      [2. 0.]
    """
    stopping = Stopping("pogm", iterations, tolerance, objective, callback)
    x0 = as_inexact(x0)
    bound = _lipschitz(gradient, x0, lipschitz, "pogm")

    def step(state, iteration):
        x, descended, before_prox, size, theta, landed = state
        slope = gradient(x)
        new_descended = x - slope / bound
        theta_new = (1 + jnp.sqrt(1 + jnp.where(iteration == iterations - 1, 8, 4) * theta**2)) / 2
        momentum, overshoot = (theta - 1) / theta_new, theta / theta_new
        new_before = (
            new_descended
            + momentum * (new_descended - descended)
            + overshoot * (new_descended - x)
            + momentum / (bound * size) * (before_prox - x)
        )
        new_size = (1 + momentum + overshoot) / bound
        new = _prox(prox, new_before, new_size, key, iteration)
        new_landed = landed
        if restart:
            # The gradient of f plus the subgradient of g that the proximal map has chosen.
            direction = slope + (new_before - new) / new_size
            new_landed = x - direction / bound
            theta_new = jnp.where(inner_product(direction, new_landed - landed) > 0, 1, theta_new)
        state = (new, new_descended, new_before, new_size, theta_new, new_landed)
        return state, relative_change(new, x)

    one = _one(x0)
    state = (x0, x0, x0, one / bound, one, x0)
    return stopping.run(step, state)


def admm(
    gram: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    prox: Callable[..., jax.Array],
    *,
    transform: LinearOperator | None = None,
    x0: jax.Array | None = None,
    penalty: float | jax.Array | None = None,
    cg_iterations: int = 20,
    cg_tolerance: float = 1e-6,
    iterations: int = 100,
    tolerance: float | None = None,
    key: jax.Array | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[jax.Array, SolverInfo]:
    """Minimizes ``1/2 <x, gram(x)> - <b, x> + g(T x)`` by the alternating direction method of multipliers.

    With ``gram = A.gram`` and ``b = A.H(y)`` this is least squares plus ``g(T x)``. The quadratic step is
    solved by :func:`operators.cg` from the last x, and differentiated implicitly: gradients are as accurate
    as these solves have converged.

    Args:
      gram: Hermitian positive semi-definite linear function, such as ``A.gram``.
      b: right-hand side, real or complex, of any shape.
      prox: proximal map of g, on the outputs of the transform.
      transform: the operator T; default: the identity.
      x0: where to start; default zeros.
      penalty: weight of the augmented Lagrangian. It changes the speed, not the limit; default a tenth of the
        largest eigenvalue of ``gram`` over the squared norm of T.
      cg_iterations: upper bound of conjugate gradient iterations in a step.
      cg_tolerance: relative residual at which these stop.
      iterations: number of steps, or its upper bound.
      tolerance: stops when both the relative primal residual ``|T x - z|`` and the relative dual residual
        have reached it; ``change`` is the larger one. None: never.
      key: typed PRNG key of a random proximal map.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Returns:
      (x, :class:`SolverInfo`), x of the shape and dtype of ``b``.

    Raises:
      ValueError: if ``iterations`` is not positive, or ``x0`` or ``gram(b)`` differs from ``b`` in shape or
        dtype.

    Source: Boyd et al., Found. Trends Mach. Learn. 3:1, 2011.

    Example:
      >>> prox = operators.solvers.soft_threshold
      >>> x, info = operators.admm(lambda x: x, jnp.array([3.0, 0.5]), prox, penalty=1.0)
      >>> print(np.asarray(x).round(3) + 0.0)
      [2. 0.]
    """
    stopping = Stopping("admm", iterations, tolerance, objective, callback)
    b = as_inexact(b)
    x0 = jnp.zeros_like(b) if x0 is None else jnp.asarray(x0, b.dtype)
    if x0.shape != b.shape:
        raise ArgumentError("admm: x0", f"the shape of b, {b.shape}", x0.shape)
    _check_like(gram, b, "admm: gram(b)")
    forward, adjoint = (lambda v: v, lambda v: v) if transform is None else (transform, transform.H)

    def normal(v):
        return adjoint(forward(v))

    if penalty is None:
        penalty = 0.1 * positive(largest_eigenvalue(gram, b))
        if transform is not None:
            penalty = penalty / positive(largest_eigenvalue(normal, b))
    penalty = jnp.asarray(penalty, real_dtype(b.dtype))

    def step(state, iteration):
        x, split, dual = state
        x, _ = cg(
            lambda v: gram(v) + penalty * normal(v),
            b + penalty * adjoint(split - dual),
            x0=x,
            tolerance=cg_tolerance,
            iterations=cg_iterations,
        )
        image = forward(x)
        new = _prox(prox, image + dual, 1 / penalty, key, iteration)
        dual = dual + image - new
        primal = relative_norm(image - new, image, new)
        return (x, new, dual), jnp.maximum(primal, relative_norm(adjoint(new - split), adjoint(dual)))

    start = forward(x0)
    state = (x0, start, jnp.zeros_like(start))
    return stopping.run(step, state)


def pdhg(
    forward: Callable[[Any], Any],
    adjoint: Callable[[Any], Any],
    prox_primal: Callable[..., Any] | None,
    prox_dual: Callable[[Any, jax.Array], Any],
    x0: Any,
    *,
    steps: tuple[float | jax.Array, float | jax.Array] | None = None,
    iterations: int = 100,
    tolerance: float | None = None,
    key: jax.Array | None = None,
    objective: Objective | None = None,
    callback: Callback | None = None,
) -> tuple[Any, SolverInfo]:
    """Minimizes ``g(x) + f(K x)``, K linear, by the primal-dual hybrid gradient method.

    x and K x may be pytrees of arrays, so that several terms ``f_i(K_i x)`` are one f of the tuple
    ``(K_1 x, K_2 x, ...)``.

    Args:
      forward: K, such as a LinearOperator A.
      adjoint: its adjoint, such as ``A.H``.
      prox_primal: proximal map of g; None for g = 0.
      prox_dual: proximal map of f itself (that of its conjugate follows by Moreau's identity).
      x0: where to start, an array or a pytree of them.
      steps: (primal, dual) step sizes, of product at most ``1 / |K|^2``; default ``1 / |K|`` each, by power
        iteration.
      iterations: number of steps, or its upper bound.
      tolerance: stops when the relative changes of x and of the dual variable both have reached it;
        ``change`` is the larger one. None: never.
      key: typed PRNG key of a random ``prox_primal``.
      objective: function of x whose values are kept.
      callback: called on the host after every step.

    Returns:
      (x, :class:`SolverInfo`), x of the structure, shapes and dtypes of ``x0``.

    Raises:
      ValueError: if ``iterations`` is not positive, or ``adjoint(forward(x0))`` differs from ``x0`` in
        structure, shape or dtype.

    Source: Chambolle and Pock, J. Math. Imaging Vis. 40:120, 2011.

    Example:
      >>> b, same, prox = jnp.array([3.0, 0.5]), lambda x: x, operators.solvers.soft_threshold
      >>> fit = lambda v, step: (v + step * b) / (1 + step)
      >>> x, info = operators.pdhg(same, same, prox, fit, jnp.zeros(2), steps=(0.9, 0.9))
      >>> print(np.asarray(x).round(3))
      [2. 0.]
    """
    stopping = Stopping("pdhg", iterations, tolerance, objective, callback)
    x0 = jax.tree.map(as_inexact, x0)
    _check_like(lambda x: adjoint(forward(x)), x0, "pdhg: adjoint(forward(x0))")
    if steps is None:
        norm = jnp.sqrt(_NORM_MARGIN * largest_eigenvalue(lambda x: adjoint(forward(x)), x0))
        steps = (1 / positive(norm), 1 / positive(norm))
    tau, sigma = steps

    def step(state, iteration):
        x, ahead, dual = state
        raised = _combine(1, dual, sigma, forward(ahead))
        new_dual = _combine(
            1, raised, -sigma, prox_dual(jax.tree.map(lambda v: v / sigma, raised), 1 / sigma)
        )
        new = _combine(1, x, -tau, adjoint(new_dual))
        if prox_primal is not None:
            new = _prox(prox_primal, new, tau, key, iteration)
        change = jnp.maximum(relative_change(new, x), relative_change(new_dual, dual))
        return (new, _combine(2, new, -1, x), new_dual), change

    state = (x0, x0, jax.tree.map(jnp.zeros_like, forward(x0)))
    return stopping.run(step, state)


def _lipschitz(gradient, x0, lipschitz, name):
    _check_like(gradient, x0, f"{name}: gradient(x0)")
    if lipschitz is None:
        offset = gradient(jnp.zeros_like(x0))
        lipschitz = _NORM_MARGIN * largest_eigenvalue(lambda v: gradient(v) - offset, x0)
    return positive(jnp.asarray(lipschitz, real_dtype(x0.dtype)))


def _check_like(function, x, what):
    def describe(tree):
        return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree)

    expected, found = describe(x), describe(jax.eval_shape(function, x))
    if expected != found:
        raise ArgumentError(what, f"{expected}, as its argument is", found)


def _prox(prox, v, step, key, iteration):
    return prox(v, step) if key is None else prox(v, step, jax.random.fold_in(key, iteration))


def _one(x):
    return jnp.ones_like(vector_norm(jax.lax.stop_gradient(x)))


def _combine(a, x, b, y):
    return jax.tree.map(lambda u, v: a * u + b * v, x, y)
