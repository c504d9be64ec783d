"""What a private stage spends: written to the ledger before it is released, and no more than the target."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon.errors import ArgumentError
from fedrecon.privacy import (
    ACCOUNTANT,
    RELATION,
    RENYI_ACCOUNTANT,
    Ledger,
    Release,
    selection_event,
    training_event,
)
from fedrecon.runtime import agreed, is_lead
from fedrecon.training.budgets import Spending
from fedrecon.training.federation_settings import FederationSettings
from fedrecon.training.options import FlagError

LEDGER = "ledger.jsonl"
# Correlated noise is one release, whatever the round.
_WHOLE = 0


class Purse:
    """The releases of one stage, in the ledger of its run.

    Args:
      folder: of the run.
      stage: its name in the log.
      spending: what may be released.
      key: of the stage's rounds, which names the noise of a simulation: rounds that are repeated after a
        crash draw the same noise, and count once. Secure noise is always new.

    Raises:
      FlagError: secure noise with several processes, which would have to share it.
    """

    def __init__(self, folder: Path, stage: str, spending: Spending, key: jax.Array) -> None:
        if spending.secure and jax.process_count() > 1:
            raise FlagError("dp_noise", "simulation with several processes", "secure")
        self._spending, self._stage = spending, stage
        self._ledger = Ledger(folder / LEDGER) if is_lead() else None
        self._draw = np.asarray(jax.random.key_data(key)).tobytes().hex()
        if spending.secure:
            # Of this process: no other one draws the same noise.
            self._draw = os.urandom(16).hex()
        self._source = "simulation: keys of the run's seed"
        if spending.secure:
            self._source = "secure: Threefry keys of 64 bits of the operating system, floating point"
            if spending.shares is not None:
                self._source = (
                    f"secure: exact {spending.shares.mechanism} of the operating system's generator"
                )
        self._epsilons: dict[int, float] = {}

    def permit(self, done: int, count: int) -> int:
        """How many of the next ``count`` rounds fit into the budget; they are in the ledger afterwards.

        All processes call it.
        """
        fits, wanted = 0, count
        while fits < wanted:
            if agreed(self._ledger is None or self._fits(done, count)):
                fits = count
            else:
                wanted = count - 1
            count = (fits + wanted + 1) // 2
        count = fits
        if self._ledger is not None and count:
            releases = self._releases(done, count)
            for release, epsilon in zip(releases, self._ledger.spend(releases), strict=True):
                # Of correlated noise the first dispatch pays for all rounds.
                for number in (
                    range(done + 1, done + count + 1) if release.round == _WHOLE else [release.round]
                ):
                    self._epsilons[number] = max(epsilon, self._epsilons.get(number, 0.0))
        return count

    def records(self, done: int, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records of the rounds after ``done`` with the largest epsilon of a client and what it means."""
        about = {
            "delta": max(self._spending.deltas.values(), default=0.0),
            "unit": self._spending.mechanism.unit,
            "neighbors": "zero-out",
            "accountant": ACCOUNTANT if self._spending.shares is None else RENYI_ACCOUNTANT,
        }
        epsilons = [self._epsilons.get(done + 1 + offset) for offset in range(len(records))]
        return [{**record, "epsilon": e, **about} for record, e in zip(records, epsilons, strict=True)]

    def _fits(self, done: int, count: int) -> bool:
        assert self._ledger is not None, "on the process that writes"
        return not self._ledger.would_exceed(self._releases(done, count), self._spending.target)

    def _releases(self, done: int, count: int) -> list[Release]:
        mechanism = self._spending.mechanism
        rounds = [_WHOLE] if mechanism.strategy else range(done + 1, done + count + 1)
        return [
            Release(
                site, mechanism.unit, self._stage, number, event, delta, self._draw, RELATION, self._source
            )
            for number in rounds
            for site, event, delta in self._of_sites()
        ]

    def _of_sites(self) -> Iterator[tuple[str, Any, float]]:
        mechanism, turns = self._spending.mechanism, self._spending.turns
        for site, units in self._spending.units.items():
            delta = self._spending.deltas[site]
            yield site, self._event(units), delta
            if self._spending.selection:
                choices = selection_event(self._spending.selection, turns * mechanism.steps)
                yield f"{site}, validation", choices, delta

    def _event(self, units: int) -> Any:
        if self._spending.shares is not None:
            return self._spending.shares.event
        return training_event(self._spending.mechanism, rounds=self._spending.turns, units=units)


class NoPurse:
    """Of a stage without privacy, which may release everything."""

    def permit(self, done: int, count: int) -> int:
        """All of them."""
        del done
        return count

    def records(self, done: int, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records."""
        del done
        return records


@contextlib.contextmanager
def naming_messages(settings: FederationSettings) -> Iterator[None]:
    """Names the algorithm where it sends a message besides the model to a private sum over sites."""
    try:
        yield
    except ArgumentError as error:
        if error.name != "method" or settings.dp_unit != "site":
            raise
        expected = "one that sends the model alone, with --dp.unit=site"
        raise FlagError("algorithm", expected, f"{settings.algorithm}, which sends {error.found}") from error


def fresh_key() -> jax.Array:
    """A Threefry key of 64 bits of the operating system's entropy."""
    return jax.random.wrap_key_data(jnp.asarray(np.frombuffer(os.urandom(8), np.uint32)), impl="threefry2x32")


def spent(folder: Path, spendings: Iterable[Spending]) -> dict[str, float]:
    """Epsilon of what was released about each client, by the ledger of the run."""
    ledger = Ledger(folder / LEDGER)
    return {
        site: ledger.epsilon(site, spending.mechanism.unit, delta)
        for spending in spendings
        for site, delta in spending.deltas.items()
    }
