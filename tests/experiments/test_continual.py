"""The program of streams: its scenarios, its rows, and removal by replay on disk."""

import shutil

import jax
import numpy as np
import pytest
from absl import flags

from experiments import continual
from experiments.pipeline import streams
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_settings import TrainSettings, resolve
from experiments.pipeline.programs import flag_groups
from fedrecon.training import Execution, FlagError
from fedrecon.training.streams import parse_blocks
from fedrecon.weights import read_weights

SIZES = {"clients": 3, "examples_per_client": 16, "image_size": 8, "rounds": 1, "channels": 4, "pools": 1}


def settings(**options):
    return resolve({"preset": "smoke", **SIZES, **options})


def planned(text, methods=("fedavg",), **options):
    data = load_data(settings(**options))
    blocks = parse_blocks(text, data.train.names)
    return streams.Plan(streams.plan_methods(settings(**options), methods, {}), blocks, 0.7, True), data


def test_scenarios_are_blocks_of_any_sites():
    sites = ("a", "b", "c", "d")
    found = {
        name: [str(b) for b in parse_blocks(streams.scenario_text(name, sites), sites)]
        for name in streams.SCENARIOS
    }
    assert found == {
        "sites_arrive": ["a,b", "a,b,c", "a,b,c,d"],
        "data_arrive": [",".join(f"{s}:{k}/3" for s in sites) for k in (1, 2, 3)],
        "scanner_replaced": ["a,b,c,d", "a~1,b,c,d", "a~1,b~1,c~1,d"],
        "site_leaves": ["a,b,c,d", "a,b,c", "a,b,c,d"],
        "incremental": ["a", "b", "c", "d"],
        "cyclic": ["a", "b", "c", "d"] * 2,
    }
    with pytest.raises(FlagError, match=r"^--scenario: expected two sites or more, found 1"):
        streams.scenario_text("cyclic", ("a",))


def test_methods_of_a_stream_are_checked():
    names = [*streams.plan_methods(settings(), [], {})]
    assert names == ["fedavg", "ewc", "lwf", "joint", "alone"]
    found = streams.plan_methods(settings(), ["ewc", "joint"], {"ewc": (("strength", "3"),)})
    assert found["ewc"].federation.algorithm_options == (("strength", "3"),)
    assert found["joint"].federation.algorithm == "fedavg"
    cases = (
        (["ewc", "ewc"], {}, "--methods: expected distinct methods"),
        (["nosuch"], {}, "--algorithm: expected one of"),
        (["local_only"], {}, "--algorithm: expected one that hands out a model"),
        ([], {"task": "segmentation", "configure": "fingerprint"}, "--configure: expected flags"),
    )
    for methods, options, message in cases:
        with pytest.raises(FlagError) as error:
            streams.plan_methods(settings(**options), methods, {})
        assert str(error.value).startswith(message)


def test_scores_of_blocks_are_means_over_their_members():
    blocks = parse_blocks("a; a~1,b", ("a", "b"))
    scores = [
        {"a": {"accuracy": 0.5}, "a~1": {"accuracy": 0.2}, "b": {"accuracy": 0.4}},
        {"a": {"accuracy": 0.1}, "a~1": {"accuracy": 0.9}, "b": {"accuracy": float("nan")}},
    ]
    after = [{"scores": s, "bytes_up": 3, "bytes_down": 4} for s in scores]
    run = streams._run("accuracy", blocks, after, scores[0])
    np.testing.assert_allclose(run.scores, [[0.5, 0.3], [0.1, 0.9]])
    assert (run.bytes_up, run.bytes_down) == (6, 8)
    row = streams.summarized("accuracy", "fedavg", [run, run])
    assert row["transfer"]["backward"] == {"mean": pytest.approx(-0.4), "half_width": pytest.approx(0)}
    document = {"metric": "accuracy", "blocks": ["a", "a~1,b"], "methods": {"fedavg": row, "alone": {
        **streams.summarized("accuracy", "alone", [run])}}}  # fmt: skip
    assert set(document["methods"]["alone"]["transfer"]) == {"learned"}
    text = continual.table(document)
    assert "-0.400 ± 0.000" in text and "block 2: a~1,b" in text
    assert len(continual.figure(document).axes) == 1
    with pytest.raises(FlagError, match=r"^--metric: expected one of accuracy, found 'dice'"):
        streams.metric_of("classification", scores[0], "dice")


@pytest.mark.slow
def test_a_site_is_removed_by_replay_and_the_stream_goes_on(tmp_path):
    text, execution = "client0,client1; +client2; -client0", Execution("scan")
    plan, data = planned(text)
    run = streams.trained(plan, "fedavg", data, 0, tmp_path / "a", execution)
    removed, found = streams.replayed(plan, "fedavg", data, 0, tmp_path / "a", "client2", execution)
    assert found == {"site": "client2", "from": "block-1", "rounds_kept": 1, "rounds_replayed": 2}
    never, _ = planned("client0,client1; client0,client1; client1")
    expected = streams.trained(never, "fedavg", data, 0, tmp_path / "b", execution)
    for t in (2, 3):
        files = [tmp_path / place / f"block-{t}/models/fedavg.npz" for place in ("a/without-client2", "b")]
        leaves = [jax.tree.leaves(read_weights(file)[0]) for file in files]
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b)
    own = [{k: v for k, v in after.items() if k in expected.domains[0]} for after in removed.domains]
    assert own == [{k: after[k] for k in own[0]} for after in expected.domains]
    # Of the first block's sites the replay is from the start.
    _, found = streams.replayed(plan, "fedavg", data, 0, tmp_path / "a", "client0", execution)
    assert found["from"] == "the initial weights" and found["rounds_kept"] == 0
    # Months later, with other members: what was trained is read.
    before = (tmp_path / "a/block-3/metrics.jsonl").read_text()
    longer, _ = planned(text + "; +client0")
    again = streams.trained(longer, "fedavg", data, 0, tmp_path / "a", execution)
    np.testing.assert_array_equal(again.scores[:3, :3], run.scores)
    assert (tmp_path / "a/block-3/metrics.jsonl").read_text() == before
    # Another past is another stream.
    other, _ = planned("client0; +client2; -client0")
    with pytest.raises(ValueError, match="holds a run with other settings"):
        streams.trained(other, "fedavg", data, 0, tmp_path / "a", execution)
    shutil.rmtree(tmp_path / "a/block-1/checkpoints")
    with pytest.raises(
        FlagError, match=r"^--without: expected a checkpoint before client2 joined, in .*found"
    ):
        streams.replayed(plan, "fedavg", data, 0, tmp_path / "a", "client2", execution)


def test_help_knows_the_flags_it_shows_first():
    values = flags.FlagValues()
    continual.define_flags(values)
    groups = flag_groups(TrainSettings, values)
    assert set(continual.FIRST) <= {flag.name for members in groups.values() for flag in members}
