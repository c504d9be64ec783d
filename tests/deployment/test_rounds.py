"""A deployment in one process: parameters are those of the simulation, and interruptions lose nothing."""

import jax
import numpy as np
import pytest

from fedrecon.deployment import DeploymentError, Job, Policy, coordinate, pack, settings_digest, unpack
from fedrecon.privacy import read_ledger
from tests.deployment.problem import (
    ask_of,
    clients,
    largest_difference,
    make_sites,
    problem,
    simulated,
    train,
)

SCAFFOLD = {"rounds": 3, "federation": {"algorithm": "scaffold"}}


class Cut(Exception):
    pass


@pytest.fixture(scope="module")
def scaffold(tmp_path_factory):
    """A training that was interrupted at the server in round 1 and at a site in round 2."""
    folder = tmp_path_factory.mktemp("scaffold")
    parties = make_sites(folder)
    seen = []
    ask = ask_of(parties, seen)

    def cut(kind, messages):
        answers = ask(kind, messages)
        if kind == "round" and unpack(messages[0]).about["round"] == 1:
            # Both have computed it; the server loses their answers.
            raise Cut
        return answers

    with pytest.raises(Cut):
        train(folder, SCAFFOLD, parties, cut)
    before = {(kind, client): answer for kind, client, _, answer in seen if kind == "round"}
    # A site that has lost its memory, and a server that begins anew.
    parties[1] = make_sites(folder)[1]
    again = []
    outcome, own = train(folder, SCAFFOLD, parties, ask_of(parties, again))
    return folder, outcome, own, before, again, parties


def test_one_site_has_the_parameters_of_the_simulation_bit_for_bit(tmp_path):
    settings, seen = {"rounds": 2, "federation": {"algorithm": "fedavg"}}, []
    parties = make_sites(tmp_path, 1)
    outcome, own = train(tmp_path, settings, parties, ask_of(parties, seen), 1)
    released, _, _ = simulated(settings, 1)
    assert largest_difference(outcome.variables, released) == largest_difference(own[0], released) == 0
    assert [kind for kind, *_ in seen] == ["facts", "start", "round", "round", "finish"]
    images = [np.asarray(x).tobytes() for x in clients(1).examples["image"].reshape(-1, 16)]
    for _, _, message, answer in seen:
        assert not any(image in message or image in answer for image in images)
    # Who does not belong is refused in one line.
    good = {"version": 1, "job": "job", "kind": "facts", "client": 0, "settings": settings}
    for about in ({"client": 1}, {"version": 2}, {"kind": "shell"}, {"job": None}, {"settings": 3}):
        answer = unpack(parties[0].answer(pack(good | about, {}))).about
        assert answer["kind"] == "refused" and "\n" not in answer["reason"]
    assert unpack(parties[0].answer(b"rubbish")).about["kind"] == "refused"


@pytest.mark.slow
def test_interrupted_parameters_are_those_of_the_simulation_bit_for_bit(scaffold):
    _, outcome, own, *_ = scaffold
    released, models, _ = simulated(SCAFFOLD)
    assert outcome.rounds == 3
    assert largest_difference(outcome.variables, released) == 0
    assert [largest_difference(*pair) for pair in zip(own, models, strict=True)] == [0, 0]


@pytest.mark.slow
def test_a_round_that_was_computed_is_answered_again_the_same(scaffold):
    _, _, _, before, again, _ = scaffold
    rounds = [(client, answer) for kind, client, _, answer in again if kind == "round"]
    for client in (0, 1):
        first = next(answer for number, answer in rounds if number == client)
        one, other = unpack(before["round", client]), unpack(first)
        assert one.about["round"] == other.about["round"] == 1
        assert jax.tree.all(jax.tree.map(np.array_equal, one.arrays, other.arrays))


@pytest.mark.slow
def test_messages_hold_neither_examples_nor_what_stays_at_sites(scaffold):
    *_, again, _ = scaffold
    images = [np.asarray(x).tobytes() for x in clients().examples["image"].reshape(-1, 16)]
    for _, _, message, answer in again:
        assert not any(image in message or image in answer for image in images)
        assert not any(name.startswith(("rows", "pending")) for name in unpack(answer).arrays)


@pytest.mark.slow
def test_jobs_that_do_not_fit_are_refused(scaffold, tmp_path):
    folder, *_ = scaffold
    other = {"rounds": 3, "federation": {"algorithm": "fedavg"}}
    with pytest.raises(DeploymentError, match="expected"):
        coordinate(Job("job", other, 2), problem(other), folder / "server", ask_of(make_sites(folder)))
    strict = make_sites(tmp_path, policy=Policy(approved=(settings_digest(other),)))
    with pytest.raises(DeploymentError, match="approved"):
        train(tmp_path, SCAFFOLD, strict)
    few = make_sites(tmp_path, policy=Policy(minimum=5))
    with pytest.raises(DeploymentError, match="hospital1: examples: expected at least 5"):
        train(tmp_path, SCAFFOLD, few)


@pytest.mark.slow
@pytest.mark.parametrize(
    "federation",
    [
        {"algorithm": "fedavg", "sampler": "uniform", "clients_per_round": 2, "reduce": "median"},
        {"algorithm": "fedbn"},
        {"algorithm": "harmofl"},
    ],
    ids=lambda federation: "-".join(map(str, federation.values())),
)
def test_other_methods_have_the_parameters_of_the_simulation(federation, tmp_path):
    settings = {"rounds": 2, "federation": federation}
    sites = 3 if "sampler" in federation else 2
    outcome, own = train(tmp_path, settings, sites=sites)
    released, models, _ = simulated(settings, sites)
    assert largest_difference(outcome.variables, released) <= 1e-6
    assert max(largest_difference(*pair) for pair in zip(own, models, strict=True)) <= 1e-6


@pytest.mark.slow
def test_private_sums_are_those_of_the_simulation_and_in_the_ledgers_of_sites(tmp_path):
    federation = {
        "algorithm": "fedavg",
        "secure_aggregation": "secagg",
        "dp_epsilon": 8.0,
        "dp_unit": "example",
    }
    settings = {"rounds": 2, "federation": federation}
    seen = []
    parties = make_sites(tmp_path, 3)
    outcome, _ = train(tmp_path, settings, parties, ask_of(parties, seen), 3)
    assert largest_difference(outcome.variables, simulated(settings, 3)[0]) == 0
    for i in range(3):
        lines = read_ledger(tmp_path / f"site{i}" / "ledger.jsonl")
        assert [(line["site"], line["round"]) for line in lines] == [(f"hospital{i}", 1), (f"hospital{i}", 2)]
    for kind, _, _, answer in seen:
        arrays = unpack(answer).arrays
        if kind == "round":
            # What the server hears of one site alone: no update, and no loss.
            assert not any(name.startswith("sums") for name in arrays)
            losses = [x for name, x in arrays.items() if "metrics" in name or "norm" in name]
            assert all(not np.any(x) for x in losses)
    tight = make_sites(tmp_path / "tight", 3, policy=Policy(most_epsilon=1.0))
    with pytest.raises(DeploymentError, match="a budget that is not spent"):
        train(tmp_path / "tight", settings, tight, sites=3)


@pytest.mark.slow
def test_masks_cancel_where_sites_draw_from_keys_of_their_own(tmp_path):
    federation = {"algorithm": "fedavg", "secure_aggregation": "secagg"}
    settings = {"rounds": 1, "batch": 8, "federation": federation}
    parties = make_sites(tmp_path, 3, policy=Policy(own_key=True))
    outcome, _ = train(tmp_path, settings, parties, sites=3)
    # Only the rounding of words is another one.
    assert 0 < largest_difference(outcome.variables, simulated(settings, 3)[0]) < 1e-5
    keys = [(tmp_path / f"site{i}" / "site.key").read_bytes() for i in range(3)]
    assert len(set(keys)) == 3


@pytest.mark.slow
def test_a_round_is_closed_without_a_late_site_which_forgets_it(tmp_path):
    parties = make_sites(tmp_path)
    told = ask_of(parties)

    def late(kind, messages):
        answers = told(kind, messages)
        if kind == "round" and unpack(messages[0]).about["round"] == 1:
            del answers[1]
        return answers

    with pytest.raises(
        DeploymentError, match="round 2: expected answers of at least 2 sites, found none of h"
    ):
        coordinate(Job("all", SCAFFOLD, 2), problem(SCAFFOLD), tmp_path / "all", late)
    parties[:] = make_sites(tmp_path / "again")
    closed = []
    job = Job("some", SCAFFOLD, 2, minimum=1)
    outcome = coordinate(job, problem(SCAFFOLD), tmp_path / "some", late, closed.append)
    assert outcome.rounds == 3
    assert [record["sites"] for record in closed[1:]] == [
        ["hospital0", "hospital1"],
        ["hospital0"],
        ["hospital0", "hospital1"],
    ]
    about = unpack((tmp_path / "again" / "site1" / "site.state").read_bytes()).about
    assert (about["settled"], about["pending"]) == (3, None)
    # One site alone moved the model in between.
    assert largest_difference(outcome.variables, simulated(SCAFFOLD)[0]) > 0
