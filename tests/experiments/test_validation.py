"""Validation curves: what they record, the round that they choose, and what is said about them."""

import numpy as np
import pytest

from fedrecon.errors import ArgumentError
from fedrecon.training.options import changed
from fedrecon.training.progress import course, remaining_gain
from tests.experiments import quadratics

# Server momentum overshoots: curves fall and rise again.
SETTINGS = changed(quadratics.SETTINGS, algorithm="fedavgm", rounds=12, validation_part=0.2)


def objectives(log, site):
    return [record["validation"][site]["objective"] for record in log]


def mean_curve(log):
    return np.mean([objectives(log, site) for site in "abcd"], axis=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training of all rounds, as ``(results, cost, log)``."""
    with pytest.MonkeyPatch.context() as patch:
        yield quadratics.run(patch, tmp_path_factory.mktemp("whole"), SETTINGS)


def test_every_round_is_scored_at_every_site(whole):
    """The last of them like the test split, which has the same examples."""
    results, _, log = whole
    assert [set(record["validation"]) for record in log] == [set("abcd")] * 12
    for site in "abcd":
        assert objectives(log, site)[-1] == pytest.approx(results.released[site]["objective"], rel=1e-6)
    curve = mean_curve(log)
    assert results.course.best_round == np.argmin(curve) + 1 < 12
    assert results.course.best == pytest.approx(curve.min()) and results.course.last == pytest.approx(
        curve[-1]
    )


def test_patience_ends_a_training_and_keeps_its_best_round(whole, tmp_path, monkeypatch):
    """The model is bit for bit that of a training of as many rounds, and a finished one stays finished."""
    curve = mean_curve(whole[2])
    best = next(n for n in range(11) if curve[n + 1] > curve[n] and curve[n + 2] > curve[n]) + 1
    waiting = changed(SETTINGS, patience=2)
    results, _, log = quadratics.run(monkeypatch, tmp_path / "waiting", waiting)
    short, _, _ = quadratics.run(monkeypatch, tmp_path / "short", changed(SETTINGS, rounds=best))
    assert len(log) == best + 2 and results.course.best_round == best and results.course.converged
    assert results.released == short.released
    assert f"lowest in round {best}, which is kept; ended since 2 rounds" in results.course.lines()[0]
    (tmp_path / "waiting" / "results.json").unlink()
    again, _, log = quadratics.run(monkeypatch, tmp_path / "waiting", waiting)
    assert again.released == results.released and len(log) == best + 2


def test_sites_that_share_nothing_choose_rounds_of_their_own(tmp_path, monkeypatch):
    base = changed(SETTINGS, algorithm="local_only", optimizer="momentum", rounds=8)
    _, _, log = quadratics.run(monkeypatch, tmp_path / "all", base)
    results, _, _ = quadratics.run(monkeypatch, tmp_path / "best", changed(base, patience=8))
    best = {site: int(np.argmin(objectives(log, site))) for site in "abcd"}
    assert len(set(best.values())) > 1
    for site, number in best.items():
        expected = objectives(log, site)[number]
        assert results.own[site]["objective"] == pytest.approx(expected, rel=1e-6)


def test_rounds_without_evaluation_have_no_scores(tmp_path, monkeypatch):
    settings = changed(SETTINGS, rounds=5, validate_every=2)
    _, _, log = quadratics.run(monkeypatch, tmp_path, settings)
    assert [record["round"] for record in log if "validation" in record] == [2, 4, 5]


def test_steps_of_the_shared_model_are_weighted_those_of_a_ring_are_all(whole, tmp_path, monkeypatch):
    """Clients take 1, 5, 3 and 8 steps and weigh as many: 99 / 17 steps a round, or 17 around the ring."""
    assert whole[0].course.steps == pytest.approx(12 * 99 / 17, rel=1e-3)
    ring = changed(quadratics.SETTINGS, topology="ring", validate_every=0)
    results, _, log = quadratics.run(monkeypatch, tmp_path, ring)
    assert results.course.steps == 3 * 17 and not any("validation" in record for record in log)
    assert results.course.curve == "training loss"


def test_a_trend_says_what_remains_to_be_gained():
    assert remaining_gain(np.arange(8.0, 0, -1)) == pytest.approx(3 / 7)
    assert remaining_gain([5, 3, 2, 1, 1, 1]) == 0
    assert remaining_gain([5, 3, 2, 1, 2, 3]) == 0
    # Of 40 values the last ten: the line through 2^-30 ... is level.
    assert remaining_gain(0.5 ** np.arange(40)) < 1e-8
    for unknown in ([], [3, 2, 1, 0, 0], [1, 2, 3, 4, 5, 6], [6, 5, 4, np.nan, 2, 1]):
        assert np.isnan(remaining_gain(unknown))


def test_verdicts_name_the_criterion():
    records = [{"stage": "s", "round": n + 1, "loss": value} for n, value in enumerate(np.arange(8.0, 0, -1))]
    line = course(records, "s", 8).lines()[0]
    assert "training loss 8 to 1, lowest in round 8; not converged" in line
    assert "another quarter of the rounds would gain 42.9 % of the whole gain" in line
    assert course(records[:4], "s", 4).lines()[0].endswith("too few rounds to say whether it has converged")
    rising = [{**record, "loss": 9 - record["loss"]} for record in records]
    assert course(rising, "s", 8).lines()[0].endswith("loss has never been below its first value")


def test_a_training_in_which_nobody_took_part_is_an_error(tmp_path, monkeypatch):
    """All clients crash; where one is there, the others are counted and rounds without anybody named."""
    nobody = changed(quadratics.SETTINGS, fault="crashed:a,crashed:b,crashed:c,nan:d")
    message = r"fedavg: expected a round .*, found none in 3 rounds \(d left out; a, b, c missing\)"
    with pytest.raises(ArgumentError, match=message):
        quadratics.run(monkeypatch, tmp_path / "nobody", nobody)
    assert not (tmp_path / "nobody" / "results.json").exists()
    records = [
        {"stage": "s", "round": 1, "loss": None, "missing": ["a"], "applied": False},
        {"stage": "s", "round": 2, "loss": 1.0, "missing": ["a"], "excluded": ["b"]},
    ]
    _, idle, left, missing = course(records, "s", 2).lines()
    assert idle == "s: 1 of 2 rounds left the model as it was"
    assert (left, missing) == ("s: left out: b in 1 rounds", "s: missing: a in 2 rounds")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 3, "validation_part": 0.0}, "--patience: expected --validation_part with it, found 3"),
        ({"patience": 3, "validate_every": 0}, "--patience: expected --validate_every with it"),
        ({"patience": 3, "validate_every": 5}, "--patience: expected at least --validate_every=5"),
        (
            {"patience": 3, "dp_epsilon": 8.0, "algorithm": "fedavg"},
            "--patience: expected 0 with --dp.epsilon",
        ),
        ({"validation_part": 0.9}, "--validation_part: expected a number from 0 to 0.7"),
    ],
)
def test_wrong_flags_of_validation_are_named(changes, message, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=message):
        quadratics.run(monkeypatch, tmp_path, changed(SETTINGS, **changes))
