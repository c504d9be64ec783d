"""What settings of federated training exclude each other."""

import numpy as np

from fedrecon.training.budgets import Budget
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError
from fedrecon.training.privacy_checks import check_privacy


def check_federation(settings: FederationSettings) -> None:
    """Checks what excludes each other; `check_ranges` checks each by itself, `check_needs` what needs others.

    Raises:
      FlagError: a value contradicts another.
    """
    if settings.asynchronous_mixing and settings.buffer_size != 1:
        raise FlagError("buffer_size", "1 with --asynchronous_mixing", settings.buffer_size)
    if 0 < settings.screen_norm < 1:
        raise FlagError("screen_norm", "0 or at least 1", settings.screen_norm)
    if 0 < settings.stream < settings.clients_per_round:
        expected = f"at least the {settings.clients_per_round} --clients_per_round"
        raise FlagError("stream", expected, settings.stream)
    if (settings.sampler == "all") != (settings.clients_per_round == 0):
        expected = "0" if settings.sampler == "all" else "a positive number"
        raise FlagError(
            "clients_per_round", f"{expected} with --sampler={settings.sampler}", settings.clients_per_round
        )
    if 0 < settings.patience < settings.validate_every:
        raise FlagError("patience", f"at least --validate_every={settings.validate_every}", settings.patience)
    if settings.dp_epsilon:
        check_privacy(settings)


def check_budget(settings: FederationSettings, budget: Budget) -> None:
    """Checks the sizes of a training.

    Raises:
      FlagError: a number is not positive, or the topology has one round.
    """
    for name, value in budget._asdict().items():
        whole = name != "learning_rate"
        # No steps are passes.
        if name == "steps" and value == 0:
            continue
        kind = "a positive whole number" if whole else "a positive number"
        allowed = (int, np.integer) if whole else (int, float, np.number)
        if isinstance(value, bool) or not isinstance(value, allowed) or not 0 < value < np.inf:
            raise FlagError(name, kind, repr(value))
    if settings.topology == "single_pass" and budget.rounds != 1:
        raise FlagError("rounds", "1 with --topology=single_pass", budget.rounds)
