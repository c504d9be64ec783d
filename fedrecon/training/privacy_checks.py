"""Checks of flags that a privacy budget excludes."""

from typing import Any

from fedrecon.training.options import FlagError


def check_privacy(settings: Any) -> None:
    """Refuses what a privacy budget would not hold for.

    Args:
      settings: `FederationSettings` with a ``dp_epsilon``.

    Raises:
      FlagError: a value contradicts another.
    """
    if settings.dp_delta == 1:
        raise FlagError("dp_delta", "less than 1", settings.dp_delta)
    if settings.patience:
        expected = "0 with --dp.epsilon, since the validation split would choose the model without noise"
        raise FlagError("patience", expected, settings.patience)
    if settings.sampler == "highest_loss":
        raise FlagError("sampler", "one that needs no loss with --dp.epsilon", settings.sampler)
    if settings.dp_mechanism != "gaussian":
        _check_matrix(settings)
    micro, fixed = settings.dp_microbatch_size, settings.dp_sampling == "fixed"
    if micro and fixed and settings.dp_batch_size % micro:
        expected = f"a divisor of --dp.batch_size={settings.dp_batch_size} with fixed batches"
        raise FlagError("dp_microbatch_size", expected, micro)
    if settings.dp_unit == "site":
        _check_sites(settings)


def _check_matrix(settings: Any) -> None:
    """The order of units must be the same in every pass of every round, or none."""
    reason = f"with --dp.mechanism={settings.dp_mechanism}, which needs two visits of a unit a pass apart"
    for name, only in (("dp_sampling", "fixed"), ("topology", "star"), ("stragglers", 0.0)):
        if getattr(settings, name) != only:
            raise FlagError(name, f"{only} {reason}", getattr(settings, name))
    if "straggler" in settings.fault:
        raise FlagError("fault", f"no straggler {reason}", settings.fault)


def _check_sites(settings: Any) -> None:
    reason = "with --dp.unit=site, which noises one sum over the sites of a round"
    only: dict[str, tuple] = {
        "topology": ("star",),
        "reduce": ("mean",),
        "screen_norm": (0.0,),
        "screen_cosine": (-1.0,),
        "clip_norm": (0.0,),
        "weighting": ("default", "equal"),
        "sampler": ("all", "poisson"),
    }
    for name, allowed in only.items():
        if getattr(settings, name) not in allowed:
            raise FlagError(name, f"{' or '.join(map(str, allowed))} {reason}", getattr(settings, name))
