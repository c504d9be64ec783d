"""Fine-tuning of a started model by few parameters, as settings name it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax

from fedrecon import catalog
from fedrecon.errors import ArgumentError
from fedrecon.federated import FROZEN, FederatedAlgorithm, Reducer
from fedrecon.training.adapters import adapters, grouped_kernels
from fedrecon.training.before_rounds import own_task
from fedrecon.training.dotted import parse_options
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.low_rank import low_rank, some_leaves, stacked_factors
from fedrecon.training.options import FlagError
from fedrecon.types import PyTree, Task, Variables

MODES = ("freeze_A", "stack", "naive")


def _same(params: PyTree) -> PyTree:
    return params


class Tuning(NamedTuple):
    """What is trained in place of a model.

    Attributes:
      task: whose parameters are trained; those of the model among them.
      variables: to begin with.
      share_mask: `Variables` of True and `FROZEN` at every leaf.
      release: ``release(params) -> params`` of what is handed out.
      released: the task of what is handed out.
      reduce: what the server does with uploads; None adds them.
    """

    task: Task
    variables: Variables
    share_mask: Variables
    release: Callable[[PyTree], PyTree]
    released: Task
    reduce: Reducer | None = None

    @property
    def frozen(self) -> Variables | None:
        """The leaves that are never trained, None in other places; None without any."""
        if FROZEN not in jax.tree.leaves(self.share_mask):
            return None
        return jax.tree.map(lambda kind, x: x if kind == FROZEN else None, self.share_mask, self.variables)

    def whole(self, variables: Variables | None) -> Variables | None:
        """What is handed out of a trained model with or without its frozen leaves."""
        if variables is None:
            return None
        if self.frozen is not None:
            variables = jax.tree.map(
                lambda own, other: other if own is None else own,
                variables,
                self.frozen,
                is_leaf=lambda x: x is None,
            )
        return Variables(self.release(variables.params), variables.stats)

    def with_frozen_of(self, algorithm: FederatedAlgorithm, settings: FederationSettings) -> "Tuning":
        """The same with the leaves frozen that the algorithm freezes, too.

        Raises:
          FlagError: there are such leaves, and clients are streamed or fine-tuned afterwards.
        """
        if FROZEN not in jax.tree.leaves(algorithm.share_mask):
            return self
        for flag in ("stream", "fine_tune"):
            if found := getattr(settings, flag):
                expected = f"0 with --algorithm={settings.algorithm}, whose frozen leaves are stored once"
                raise FlagError(flag, expected, found)

        def joined(kind: Any, part: PyTree) -> PyTree:
            return jax.tree.map(lambda own: FROZEN if kind == FROZEN else own, part)

        return self._replace(share_mask=jax.tree.map(joined, algorithm.share_mask, self.share_mask))

    def metrics_of(self, task: Task) -> Callable:
        """The metrics of a task of what is handed out, for models in training."""
        return lambda params, stats, batch: task.metrics(self.release(params), stats, batch)

    def with_frozen(self, names: Collection[str]) -> "Tuning":
        """The same, with the leaves under these names at the top of the variables frozen as they are."""

        def group(kinds: Mapping[str, Any]) -> dict[str, Any]:
            return {
                name: jax.tree.map(lambda _: FROZEN, kind) if name in names else kind
                for name, kind in kinds.items()
            }

        return self._replace(share_mask=Variables(*map(group, self.share_mask)))

    def applied_to(self, algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
        """The algorithm, with the leaves frozen that are not trained."""
        if self.frozen is None:
            return algorithm

        def narrowed(own: Any, part: PyTree) -> PyTree:
            return jax.tree.map(lambda kind: FROZEN if kind == FROZEN else own, part)

        return algorithm._replace(share_mask=jax.tree.map(narrowed, algorithm.share_mask, self.share_mask))


def _lora(
    rank: int = 4,
    alpha: float = 0.0,
    leaves: str = "kernel$",
    mode: str = "freeze_A",
    seed: int = 0,
    train: str = "",
) -> Callable[[Task, Variables, Mapping[str, Any]], Tuning]:
    if mode not in MODES:
        raise ArgumentError("mode", f"one of {', '.join(MODES)}", repr(mode))
    if alpha < 0:
        raise ArgumentError("alpha", "a positive number, or 0 for twice the rank", alpha)
    if rank < 1:
        raise ArgumentError("rank", "a positive integer", rank)

    def make(task: Task, base: Variables, example: Mapping[str, Any]) -> Tuning:
        made = low_rank(
            task,
            base,
            rank=rank,
            alpha=alpha or None,
            leaves=leaves,
            train_a=mode != "freeze_A",
            seed=seed,
            train=train,
            skip=grouped_kernels(task, base, example),
        )
        variables = made.task.init(jax.random.key(0))
        reduce = stacked_factors(variables.params["A"], rank) if mode == "stack" else None
        return _tuning(made.task, variables, made.share_mask, made.merge, task, reduce)

    return make


def _adapter(
    reduction: int = 8, blocks: str = r"block\d+$", seed: int = 0, train: str = ""
) -> Callable[[Task, Variables, Mapping[str, Any]], Tuning]:
    if reduction < 1:
        raise ArgumentError("reduction", "a positive integer", reduction)

    def make(task: Task, base: Variables, example: Mapping[str, Any]) -> Tuning:
        options: dict[str, Any] = {"reduction": reduction, "blocks": blocks, "seed": seed, "train": train}
        made = adapters(task, base, example, **options)
        variables = made.task.init(jax.random.key(0))
        return _tuning(made.task, variables, made.share_mask, _same, made.task)

    return make


def _bias(leaves: str = r"(^|/)(bias|scale)$") -> Callable[[Task, Variables, Mapping[str, Any]], Tuning]:
    def make(task: Task, base: Variables, example: Mapping[str, Any]) -> Tuning:
        del example
        return _tuning(task, base, some_leaves(base, leaves), _same, task)

    return make


def _head(leaves: str = r"(^|/)head/") -> Callable[[Task, Variables, Mapping[str, Any]], Tuning]:
    return _bias(leaves)


# Name -> ``recipe(**options) -> make(task, base, example) -> Tuning``.
RECIPES: Mapping[str, Callable[..., Callable]] = {
    "lora": _lora,
    "adapter": _adapter,
    "bias": _bias,
    "head": _head,
}


def check_finetuning(settings: FederationSettings, fixes: tuple[str, ...] = ()) -> Callable | None:
    """What ``--finetune`` makes of a task, or None where all is trained.

    Args:
      settings: of the federation.
      fixes: options of `federated` that the algorithm leaves no choice of.

    Raises:
      FlagError: an option is unknown or out of range, or other flags ask for what does not go with it.
    """
    name, texts = settings.finetune, dict(settings.finetune_options)
    if name == "full":
        if texts:
            raise FlagError("finetune", "another choice than full for its options", name)
        return None
    recipe = RECIPES[name]
    options = parse_options("finetune", catalog.options_of(recipe), texts, name)
    try:
        make = recipe(**options)
    except ArgumentError as error:
        raise FlagError(f"finetune.{error.name}", error.expected, error.found) from error
    for flag in ("stream", "fine_tune"):
        if found := getattr(settings, flag):
            raise FlagError(flag, f"0 with --finetune={name}, whose frozen leaves are stored once", found)
    if options.get("mode") == "stack":
        _check_stack(settings, fixes)
    return make


def _check_stack(settings: FederationSettings, fixes: tuple[str, ...]) -> None:
    reason = "with --finetune.mode=stack, whose server multiplies the factors of each client"
    defaults = FederationSettings()
    for flag in (
        "reduce",
        "screen_norm",
        "screen_cosine",
        "secure_aggregation",
        "topology",
        "server_optimizer",
    ):
        if (found := getattr(settings, flag)) != (expected := getattr(defaults, flag)):
            raise FlagError(flag, f"{expected} {reason}", found)
    if settings.dp_epsilon and settings.dp_unit == "site":
        raise FlagError("dp_unit", f"example or patient {reason}", "site")
    if {"reduce", "server_optimizer", "channel"} & set(fixes):
        expected = f"one that averages, such as fedavg, {reason}"
        raise FlagError("algorithm", expected, settings.algorithm)


def finetuned(
    settings: FederationSettings, task: Task, base: Variables, example: Mapping[str, Any], stage: str = ""
) -> Tuning:
    """What is trained by the settings, from a model that is there.

    Args:
      settings: of the federation.
      task: what is learned.
      base: the model to start from.
      example: arrays of examples, or what has their shapes and dtypes.
      stage: name of the training.

    Raises:
      FlagError: as `check_finetuning`, or an expression is found nowhere in the network.
    """
    make = check_finetuning(settings)
    if make is None:
        return _tuning(task, base, Variables(True, True), _same, task)
    if settings.finetune == "adapter" and "/" in stage:
        expected = "lora, bias, head or full in runs of several stages, whose networks have no adapters"
        raise FlagError("finetune", expected, "adapter")
    try:
        return make(task, base, example)
    except ArgumentError as error:
        expected = error.expected if len(error.expected) < 300 else error.expected[:300] + "..."
        raise FlagError(f"finetune.{error.name}", expected, error.found) from error


def released_task(settings: FederationSettings, task: Task, example: Mapping[str, Any]) -> Task:
    """The task of the model that a training of these settings hands out.

    It may be one of the algorithm's own, and its network may have adapters.
    """
    task = own_task(settings, task, example)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return finetuned(settings, task, shapes, example).released if settings.finetune == "adapter" else task


def _tuning(
    task: Task,
    variables: Variables,
    share_mask: Variables,
    release: Callable[[PyTree], PyTree],
    released: Task,
    reduce: Reducer | None = None,
) -> Tuning:
    def spread(kind: Any, part: PyTree) -> PyTree:
        return jax.tree.map(lambda _: kind, part)

    return Tuning(task, variables, jax.tree.map(spread, share_mask, variables), release, released, reduce)
