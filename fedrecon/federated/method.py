"""Methods as values: the client's and the server's half of a federated method, and how methods combine."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import optax

from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import Batches, Batching, ClientResult
from fedrecon.federated.messages import Context, Exchange, Gathered, Message
from fedrecon.types import Batch, Metrics, PyTree, Variables


class LocalContext(NamedTuple):
    """What a method may know at a client; all but ``rate`` are constant during one round.

    Attributes:
      received: Variables the client started the round from, trainable leaves alone (None where frozen).
      broadcast: what the method's server half sent.
      batches: the client's `Batches`.
      key: typed PRNG key of the client's round; steps use keys folded from it.
      loss: the task's ``loss(params, stats, batch, key) -> (scalar, (stats, metrics))`` of all leaves.
      steps: float32 (), the sum over the round's real steps of the schedule's rate: their number without a
        schedule.
      rate: float32 (), the schedule's factor of this step, and after the steps their mean; None without a
        schedule.
      complete: ``complete(variables) -> Variables`` with frozen leaves filled in; models are applied to
        these. The identity where nothing is frozen.
    """

    received: Variables
    broadcast: PyTree
    batches: Batches
    key: jax.Array
    loss: Callable
    steps: jax.Array
    rate: jax.Array | None
    complete: Callable[[Variables], Variables]


class Evaluation(NamedTuple):
    """What the evaluation of one batch gives besides the gradient.

    Attributes:
      value: the task's loss, without penalties; None if it must not be reported.
      stats: statistics afterwards.
      metrics: {name: (sum, count)} of the task.
      aux: what the method's penalty hands to its ``step``; () where an oracle looks at examples one by one.
      found: what the method's oracle hands to its ``step``; of several oracles the last one's.
    """

    value: jax.Array | None
    stats: PyTree
    metrics: Metrics
    aux: PyTree = ()
    found: PyTree = ()


# ``value_and_grad(params, stats, batch, memory, key) -> (Evaluation, gradient)``
ValueAndGrad = Callable[[PyTree, PyTree, Batch, PyTree, jax.Array], tuple[Evaluation, PyTree]]


class Method(NamedTuple):
    """A federated method as a value: what it adds to plain local training and averaging. All fields optional.

    A client's *state* outlives the round; its *memory* lives within one and may change at every step. Without
    ``begin`` the memory is the state, without ``finish`` the state stays as it was.

    Attributes:
      init: ``init(variables) -> state`` before the client's first round.
      begin: ``begin(state, context) -> memory`` once a round; ``context`` is a `LocalContext`.
      prepare: ``prepare(batch, memory, context, key) -> batch`` before each step (views, spectra).
      penalty: ``penalty(params, stats, batch, memory, context, key) -> (scalar, aux)``, added to the loss of
        each step; ``params`` and ``stats`` are complete.
      oracle: ``oracle(value_and_grad) -> value_and_grad``, see `ValueAndGrad`: how a step finds its gradient
        (sharpness-aware steps, per-example clipping and noise).
      correct: ``correct(gradient, params, memory, context) -> gradient``, before the local optimizer.
      step: ``step(memory, params, batch, evaluation, context, key) -> memory`` after each step.
      finish: ``finish(result, memory, context) -> (result, message, state)`` after the last step, with the
        method's `Message`.
      server: its `Exchange` with the server.
      transform: optax transformation of the mean update (as a gradient: minus the mean delta), before the
        server optimizer, given ``message``, ``participants`` and ``clients`` as extra arguments.
      personalize: ``personalize(variables, state, batch) -> variables`` as in `FederatedAlgorithm`.
      batching: ``batching(examples, valid, key) -> (index, mask)`` where the method defines the batches.
      every_step: steps without a valid example are taken, too (their noise belongs to the guarantee).
      hides: no number computed from examples may leave the client but through the oracle.
      rollback: ``rollback(before, after) -> state`` of a client that took part in a round that is not kept
        (its update was left out, or the server's step was not applied); None restores the state before.
      discloses: what the method sends, or keeps for evaluation, that is computed from examples without the
        oracle, or from single ones inside of it; it then does not combine with a method that ``hides``.
    """

    init: Callable[[Variables], PyTree] | None = None
    begin: Callable[[PyTree, LocalContext], PyTree] | None = None
    prepare: Callable[[Batch, PyTree, LocalContext, jax.Array], Batch] | None = None
    penalty: (
        Callable[[PyTree, PyTree, Batch, PyTree, LocalContext, jax.Array], tuple[jax.Array, PyTree]] | None
    ) = None
    oracle: Callable[[ValueAndGrad], ValueAndGrad] | None = None
    correct: Callable[[PyTree, PyTree, PyTree, LocalContext], PyTree] | None = None
    step: Callable[[PyTree, PyTree, Batch, Evaluation, LocalContext, jax.Array], PyTree] | None = None
    finish: Callable[[ClientResult, PyTree, LocalContext], tuple[ClientResult, Message, PyTree]] | None = None
    server: Exchange | None = None
    transform: optax.GradientTransformationExtraArgs | None = None
    personalize: Callable[[Variables, PyTree, Batch | None], Variables] | None = None
    batching: Batching | None = None
    every_step: bool = False
    hides: bool = False
    rollback: Callable[[PyTree, PyTree], PyTree] | None = None
    discloses: str = ""


def combine(*methods: Method | None) -> Method:
    """Several methods at once.

    States, memories, broadcasts and the fields of messages are tuples in the order of the methods. Penalties
    add, batches are prepared, gradients corrected, results finished and models personalized in that order,
    and the oracle of each wraps those before it. None stands for nothing; one method alone is returned as it
    is.

    Raises:
      ValueError: if two methods define the batches; or if, together with one that ``hides``, another
        discloses what it computes, prepares batches (which may mix examples), or wraps its oracle (which
        would draw the same noise more than once): the method that hides comes after those with an oracle.
    """
    parts = tuple(method for method in methods if method is not None)
    if len(parts) == 1:
        return parts[0]
    batching = [part.batching for part in parts if part.batching is not None]
    if len(batching) > 1:
        raise ArgumentError("methods", "at most one that defines the batches", "two")
    disclosed = [part.discloses for part in parts if part.discloses]
    if disclosed and any(part.hides for part in parts):
        raise ArgumentError(
            "methods",
            "none that uncovers what it computes from examples without noise",
            f"one that uncovers {disclosed[0]}, together with differential privacy",
        )
    _check_hidden(parts)
    return Method(
        init=functools.partial(_init, parts) if _any(parts, "init") else None,
        begin=functools.partial(_begin, parts),
        prepare=functools.partial(_prepare, parts) if _any(parts, "prepare") else None,
        penalty=functools.partial(_penalty, parts) if _any(parts, "penalty") else None,
        oracle=functools.partial(_oracle, parts) if _any(parts, "oracle") else None,
        correct=functools.partial(_correct, parts) if _any(parts, "correct") else None,
        step=functools.partial(_step, parts) if _any(parts, "step") else None,
        finish=functools.partial(_finish, parts),
        server=_combine_exchanges(parts) if _any(parts, "server") else None,
        transform=_combine_transforms(parts) if _any(parts, "transform") else None,
        personalize=functools.partial(_personalize, parts) if _any(parts, "personalize") else None,
        batching=batching[0] if batching else None,
        every_step=any(part.every_step for part in parts),
        hides=any(part.hides for part in parts),
        rollback=functools.partial(_rollback, parts) if _any(parts, "rollback") else None,
        discloses=disclosed[0] if disclosed else "",
    )


def _check_hidden(parts: tuple[Method, ...]) -> None:
    hiding = [number for number, part in enumerate(parts) if part.hides]
    if not hiding:
        return
    if _any(parts, "prepare"):
        raise ArgumentError(
            "methods",
            "none that prepares batches, in which it may mix examples",
            "one that prepares whole batches, together with differential privacy",
        )
    if _any(parts[hiding[0] + 1 :], "oracle"):
        raise ArgumentError(
            "methods",
            "differential privacy after all methods with an oracle",
            "one that evaluates private gradients again, together with differential privacy",
        )


def begin(method: Method, state: PyTree, context: LocalContext) -> PyTree:
    """The method's memory at the beginning of a round."""
    return state if method.begin is None else method.begin(state, context)


def finish(
    method: Method, result: ClientResult, state: PyTree, memory: PyTree, context: LocalContext
) -> tuple[ClientResult, Message, PyTree]:
    """Applies the method's `finish` to a client's result, its message and its new state."""
    return (result, Message(), state) if method.finish is None else method.finish(result, memory, context)


def _any(parts: Sequence[Method], name: str) -> bool:
    return any(getattr(part, name) is not None for part in parts)


def _own(context: LocalContext, parts: Sequence[Method], number: int) -> LocalContext:
    """The context as one of several methods sees it."""
    # Broadcasts are a tuple only if some method has a server half.
    payload = context.broadcast[number] if _any(parts, "server") else ()
    return context._replace(broadcast=payload)


def _states(parts, state):
    # Without any ``init`` the client keeps nothing.
    return state if _any(parts, "init") else ((),) * len(parts)


def _init(parts, variables):
    return tuple(part.init(variables) if part.init else () for part in parts)


class _Memory(NamedTuple):
    """Memories of combined methods, and their states for those that do not change them."""

    own: tuple[PyTree, ...]
    states: tuple[PyTree, ...]


def _begin(parts, state, context):
    states = _states(parts, state)
    own = tuple(
        begin(part, states[number], _own(context, parts, number)) for number, part in enumerate(parts)
    )
    return _Memory(own, states)


def _prepare(parts, batch, memory, context, key):
    for number, part in enumerate(parts):
        if part.prepare is not None:
            own_key = jax.random.fold_in(key, number)
            batch = part.prepare(batch, memory.own[number], _own(context, parts, number), own_key)
    return batch


def _penalty(parts, params, stats, batch, memory, context, key):
    total, aux = 0.0, []
    for number, part in enumerate(parts):
        value, own = 0.0, ()
        if part.penalty is not None:
            value, own = part.penalty(
                params, stats, batch, memory.own[number], _own(context, parts, number), key
            )
        total, aux = total + value, [*aux, own]
    return total, tuple(aux)


def _oracle(parts, value_and_grad):
    for number, part in enumerate(parts):
        if part.oracle is not None:
            value_and_grad = _lift(part.oracle, number, len(parts), value_and_grad)
    return value_and_grad


def _lift(oracle, number, count, value_and_grad):
    """The oracle of one of several methods, which sees and returns its own memory and findings alone."""

    def whole(params, stats, batch, memory, key):
        def inner(params, stats, batch, own, key):
            full = memory._replace(own=_with(memory.own, number, own))
            evaluation, gradient = value_and_grad(params, stats, batch, full, key)
            return evaluation._replace(found=()), gradient

        evaluation, gradient = oracle(inner)(params, stats, batch, memory.own[number], key)
        return evaluation._replace(found=_with(((),) * count, number, evaluation.found)), gradient

    return whole


def _with(items, number, item):
    return (*items[:number], item, *items[number + 1 :])


def _correct(parts, gradient, params, memory, context):
    for number, part in enumerate(parts):
        if part.correct is not None:
            gradient = part.correct(gradient, params, memory.own[number], _own(context, parts, number))
    return gradient


def _step(parts, memory, params, batch, evaluation, context, key):
    aux, found = (x or ((),) * len(parts) for x in (evaluation.aux, evaluation.found))
    own = list(memory.own)
    for number, part in enumerate(parts):
        if part.step is not None:
            seen = evaluation._replace(aux=aux[number], found=found[number])
            own[number] = part.step(own[number], params, batch, seen, _own(context, parts, number), key)
    return memory._replace(own=tuple(own))


def _finish(parts, result, memory, context):
    messages, states = [], []
    for number, part in enumerate(parts):
        result, message, state = finish(
            part, result, memory.states[number], memory.own[number], _own(context, parts, number)
        )
        messages.append(message)
        states.append(state)
    fields = (tuple(getattr(message, name) for message in messages) for name in Message._fields)
    return result, Message(*fields), tuple(states) if _any(parts, "init") else ()


def _rollback(parts, before, after):
    return tuple(
        old if part.rollback is None else part.rollback(old, new)
        for part, old, new in zip(parts, before, after, strict=True)
    )


def _part_of(message: Message, number: int) -> Message:
    gathered = message.gathered
    if isinstance(gathered, Gathered):
        gathered = gathered._replace(values=gathered.values[number])
    return Message(message.summed[number], message.scalars[number], gathered)


def _combine_exchanges(parts: Sequence[Method]) -> Exchange:
    def init(variables):
        return tuple(part.server.init(variables) if part.server else () for part in parts)

    def broadcast(states):
        return tuple(
            part.server.broadcast(state) if part.server else ()
            for part, state in zip(parts, states, strict=True)
        )

    def receive(states: tuple, message: Message, context: Context) -> tuple:
        return tuple(
            part.server.receive(state, _part_of(message, number), context) if part.server else state
            for number, (part, state) in enumerate(zip(parts, states, strict=True))
        )

    return Exchange(init, broadcast, receive)


def _combine_transforms(parts: Sequence[Method]) -> optax.GradientTransformationExtraArgs:
    chosen = [(number, part.transform) for number, part in enumerate(parts) if part.transform is not None]

    def init(params):
        return tuple(transform.init(params) for _, transform in chosen)

    def update(gradient, states, params=None, *, message, **extra):
        new = []
        for (number, transform), state in zip(chosen, states, strict=True):
            gradient, state = transform.update(
                gradient, state, params, message=_part_of(message, number), **extra
            )
            new.append(state)
        return gradient, tuple(new)

    return optax.GradientTransformationExtraArgs(init, update)


def _personalize(parts, variables, state, batch):
    for part, own in zip(parts, _states(parts, state), strict=True):
        if part.personalize is not None:
            variables = part.personalize(variables, own, batch)
    return variables
