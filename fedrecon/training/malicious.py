"""Malicious clients of a simulation, named by the flags --attack and --attack.NAME=VALUE."""

from collections.abc import Sequence

from fedrecon import catalog
from fedrecon.attacks import ATTACKS, Attack, Ride, poison
from fedrecon.errors import ArgumentError
from fedrecon.federated import FederatedAlgorithm
from fedrecon.training.dotted import parse_options
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError, as_flag_error

# What attacks on examples change something of.
_TASKS = {"label_flip": ("classification", "segmentation"), "backdoor": ("classification",)}


def parse_attack(
    settings: FederationSettings, tasks: Sequence[str] = ()
) -> tuple[Attack | Ride | None, tuple[str, ...]]:
    """The attack and the names of those who attack; None and nobody without one.

    Args:
      settings: of the federation.
      tasks: what is trained.

    Raises:
      FlagError: an option is unknown or out of range, nobody attacks, or a task has nothing to attack.
    """
    options = dict(settings.attack_options)
    if settings.attack == "none":
        if options:
            raise FlagError("attack", "an attack for --attack.NAME", "none")
        return None, ()
    recipe, fit = ATTACKS[settings.attack], _TASKS.get(settings.attack)
    if fit and (others := [task for task in tasks if task not in fit]):
        raise FlagError(f"attack={settings.attack}", f"the task {' or '.join(fit)}", others[0])
    names = tuple(name for name in options.pop("clients", "").split(",") if name)
    values = parse_options("attack", catalog.options_of(recipe), options, settings.attack)
    if not names:
        raise FlagError("attack.clients", "names of those who attack, such as --attack.clients=0,3", "nobody")
    try:
        return recipe(**values), names
    except ArgumentError as error:
        raise as_flag_error(error, {}, "attack.") from error


def poisoned(
    algorithm: FederatedAlgorithm, settings: FederationSettings, names: Sequence[str]
) -> FederatedAlgorithm:
    """The algorithm with the malicious clients that the settings name, by their names or their numbers.

    Raises:
      FlagError: as `parse_attack`, a client is unknown or named twice, or the channel hides what the attack
        must see.
    """
    attack, clients = parse_attack(settings)
    if attack is None:
        return algorithm
    numbers = []
    for client in clients:
        if client in names:
            numbers.append(list(names).index(client))
        elif client.isdigit() and int(client) < len(names):
            numbers.append(int(client))
        else:
            listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise FlagError("attack.clients", f"numbers or names of the clients {listed}", repr(client))
    if len(set(numbers)) < len(numbers):
        raise FlagError("attack.clients", "each client once", ",".join(clients))
    try:
        return poison(algorithm, attack, numbers)
    except ArgumentError as error:
        raise FlagError(f"attack={settings.attack}", error.expected, error.found) from error
