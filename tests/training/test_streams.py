"""Streams of blocks: their text, their data, and that removal is what never having been there gives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.runtime import Workdir
from fedrecon.training import Budget, Execution, FederationSettings, FlagError, Stage
from fedrecon.training.streams import (
    Block,
    Member,
    block_data,
    check_stream,
    domain_data,
    joined,
    parse_blocks,
    train_block,
    without_site,
)
from fedrecon.types import Task, Variables

SITES = ("a", "b", "c", "d")
WITHOUT_C = ("a", "b", "d")


def line():
    """A model of three numbers that descends to the mean of a client's."""

    def loss(params, stats, batch, key):
        # Noise keyed per step, so that a wrong key shows.
        aim = batch["x"] + 0.01 * jax.random.key_data(key)[1] / 2.0**32
        each = ((params["w"] + params["own"] - aim) ** 2).sum(-1) / 2
        return jnp.where(batch["valid"], each, 0).sum() / jnp.maximum(batch["valid"].sum(), 1), (stats, {})

    start = Variables({"w": jnp.zeros(3), "own": jnp.zeros(3)}, {})
    mask = Variables({"w": False, "own": True}, {})
    return Task(lambda key: start, loss, lambda p, s, b: {}, lambda p, s, b: b["x"], mask)


def data(**spoiled):
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(i, 1, (6, 3)) for i in range(4)]).astype(np.float32)
    for name, value in spoiled.items():
        x[SITES.index(name)] = value
    volume = np.tile(np.arange(6, dtype=np.int32) // 2, (4, 1))
    valid = np.arange(6) < np.array([6, 6, 4, 6])[:, None]
    return ClientData({"x": x, "volume": volume}, valid, SITES)


def ran(folder, text, algorithm="fedavg", clients=None, before=None, first=0, keep=True, **settings):
    """The federation after each block from ``first`` on, each in a directory of its own."""
    clients = data() if clients is None else clients
    blocks = parse_blocks(text, SITES) if isinstance(text, str) else text
    federation, found = before, []
    for t, block in list(enumerate(blocks))[first:]:
        own = block_data([[member] for member in block.members], clients, seed=0, strength=1.0)
        key = jax.random.fold_in(jax.random.key(3), t)
        stage = Stage(algorithm, line(), line().init(None), own, key, key)
        federations = FederationSettings(algorithm=algorithm, **settings)
        check_stream(federations)
        with Workdir(folder / f"block-{t + 1}", {"block": str(block)}) as workdir:
            _, federation = train_block(
                stage,
                federations,
                Budget(block.rounds or 2, 1, 3, 0.2),
                workdir,
                Execution("scan"),
                federation,
                keep=keep,
            )
        found.append(federation)
    return found


def same(a, b):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_texts_tell_blocks():
    found = parse_blocks("b, a; +c:1/2*5; -a; all~1; c:2/2,a", SITES)
    assert [str(block) for block in found] == [
        "a,b",
        "a,b,c:1/2*5",
        "b,c:1/2",
        "a~1,b~1,c~1,d~1",
        "a,c:2/2",
    ]
    assert found[1].rounds == 5 and found[2].rounds is None and found[4].sites == ("a", "c")
    assert found[3].members[0] == Member("a", scanner=1) and found[3].members[0].domain == "a~1"
    assert parse_blocks("; ".join(map(str, found)), SITES) == found
    assert joined(found, "c") == 1
    assert [str(b) for b in without_site(found[:3], "b")] == ["a", "a,c:1/2*5", "c:1/2"]
    # A block of the site alone is gone.
    assert without_site(parse_blocks("a; b; a", SITES), "b") == (Block((Member("a"),)),) * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,x", "--blocks: expected some of a, b, c, d in block 1, found 'x'"),
        ("a; -b", "--blocks: expected a member of block 1 to leave in block 2, found b"),
        ("-a", "--blocks: expected members in the first block, before anybody leaves or joins, found -a"),
        ("a; -a", "--blocks: expected a member in block 2, found -a"),
        ("a;;b", "--blocks: expected a member in block 2, found nothing"),
        ("a,a", "--blocks: expected each site once in block 1, found a"),
        ("a; b,-a", "--blocks: expected members, or only changes"),
        ("a:3/2", "--blocks: expected NAME:K/N with K up to N in block 1, found a:3/2"),
        ("a:0/2", "--blocks: expected a positive integer"),
        ("a*0", "--blocks: expected a positive integer"),
        ("a~x", "--blocks: expected a positive integer"),
    ],
)
def test_a_wrong_text_is_refused_in_a_line(text, message):
    with pytest.raises(FlagError) as found:
        parse_blocks(text, SITES)
    assert str(found.value).startswith(message)


def test_who_was_never_there_cannot_be_removed():
    blocks = parse_blocks("a; a,b", SITES)
    with pytest.raises(FlagError, match=r"^--without: expected a site of the stream \(a, b\), found 'c'"):
        joined(blocks, "c")
    with pytest.raises(FlagError, match=r"^--without: expected a stream with other sites, too, found 'a'"):
        without_site(blocks[:1], "a")


def test_parts_divide_patients_and_scanners_change_images():
    clients = data()
    whole = block_data([[Member("a")]], clients, seed=0, strength=1.0)
    parts = [block_data([[Member("a", k, 3)]], clients, seed=0, strength=1.0) for k in (1, 2, 3)]
    rows = np.concatenate([part.examples["x"][0][part.valid[0]] for part in parts])
    assert len(rows) == 6 and {*map(tuple, rows)} == {*map(tuple, whole.examples["x"][0])}
    assert all(len(set(part.examples["volume"][0][part.valid[0]].tolist())) == 1 for part in parts)
    # A union counts nobody twice.
    united = block_data(
        [[Member("a", 1, 3), Member("a")], [Member("c", 1, 2)]], clients, seed=0, strength=1.0
    )
    np.testing.assert_array_equal(np.sort(united.examples["x"][0], 0), np.sort(whole.examples["x"][0], 0))
    assert united.names == ("a", "c") and united.valid[1].sum() == 2
    with pytest.raises(FlagError, match=r"^--blocks: expected 4 patients or more of a, for a:1/4, found 3"):
        block_data([[Member("a", 1, 4)]], clients, seed=0, strength=1.0)
    with pytest.raises(FlagError, match=r"^--blocks: expected NAME~K of sites with images of numbers"):
        block_data([[Member("a", scanner=1)]], clients, seed=0, strength=1.0)
    image = np.random.default_rng(1).normal(2, 1, (4, 6, 4, 4, 1)).astype(np.float32)
    pictures = ClientData({**clients.examples, "image": image}, clients.valid, SITES)
    domains = domain_data(
        [Member("a"), Member("a", 1, 2, 1), Member("b", scanner=1)], pictures, seed=0, strength=1.0
    )
    assert domains.names == ("a", "a~1", "b~1")
    np.testing.assert_array_equal(domains.examples["image"][0], image[0])
    gains = [domains.examples["image"][i].mean() / image[j].mean() for i, j in ((1, 0), (2, 1))]
    assert len({round(float(gain), 2) for gain in (*gains, 1.0)}) == 3
    both = block_data([[Member("a"), Member("a", scanner=1)]], pictures, seed=0, strength=1.0)
    # Patients of both scanners are told apart.
    assert both.valid.sum() == 12 and set(both.examples["volume"][0].tolist()) == set(range(6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("fedavg", {"optimizer": "adam", "server_optimizer": "adam", "server_learning_rate": 0.1}),
        ("scaffold", {}),
        ("fedbn", {"sampler": "uniform", "clients_per_round": 1}),
        ("ewc", {"algorithm_options": (("strength", "0.2"),)}),
        ("fedavg", {"codec": "top_k", "codec_options": (("fraction", "0.5"),)}),
    ],
)
def test_replay_without_a_site_has_the_bits_of_a_stream_that_never_had_it(tmp_path, algorithm, settings):
    text = "a,b; a,b,c; b,c,d; c; all"
    stream = ran(tmp_path / "with", text, algorithm, **settings)
    rest = without_site(parse_blocks(text, SITES), "c")
    replay = ran(tmp_path / "replay", rest, algorithm, before=stream[0], first=1, **settings)
    # Of c nothing may be read: here it is no number.
    never = ran(tmp_path / "never", "a,b; a,b; b,d; a,b,d", algorithm, data(c=np.nan), **settings)
    assert len(replay) == len(never) - 1 == 3
    for a, b in zip(replay, never[1:], strict=True):
        same((a.state, a.known, a.model, a.memory), (b.state, b.known, b.model, b.memory))
    assert "c" not in replay[-1].known
    assert np.abs(stream[-1].model.params["w"] - replay[-1].model.params["w"]).max() > 1e-3
    # And what is interrupted between two blocks resumes with the same bits.
    again = ran(tmp_path / "replay", rest, algorithm, before=stream[0], first=1, **settings)
    same(again[-1].state, replay[-1].state)


@pytest.mark.slow
def test_a_federation_goes_on_with_other_members(tmp_path):
    """Who returns has the private leaves that it left with, who is new those of all so far."""
    _, away = first = ran(tmp_path / "a", "a,b,c; b,c", "fedbn")
    for keep in (True, False):
        folder = tmp_path / f"keep-{keep}"
        back = ran(folder, "a,b,c; b,c; a,b,d*1", "fedbn", before=away, first=2, keep=keep)[0]
        assert set(back.known) == ({*SITES} if keep else {*WITHOUT_C})
    found = fl.members.with_members(
        fl.init_state(away.algorithm, away.model, data_of(WITHOUT_C), fl.client_mesh()),
        WITHOUT_C,
        away.state,
        away.known,
    )
    own = np.asarray(found.private.params["own"])
    np.testing.assert_array_equal(own[0], first[0].known["a"].private.params["own"])
    np.testing.assert_array_equal(own[1], away.known["b"].private.params["own"])
    mean = np.mean([away.known[name].private.params["own"] for name in "bc"], 0)
    np.testing.assert_allclose(own[2], mean, rtol=1e-6)
    # All get the same dense model.
    np.testing.assert_array_equal(found.variables.params["w"], away.state.variables.params["w"])
    assert int(found.round) == 0 and not np.asarray(found.history.participations).any()


def data_of(names):
    return block_data([[Member(name)] for name in names], data(), seed=0, strength=1.0)


@pytest.mark.slow
def test_two_blocks_of_the_same_members_keep_the_states_of_methods(tmp_path):
    """SCAFFOLD's control variates go on; what starts anew differs."""
    whole = ran(tmp_path / "a", "a,b; a,b", "scaffold")
    variates = [f.state.client.method for f in whole]
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(variates))
    fresh = ran(tmp_path / "b", "a,b; a,b", "scaffold", before=whole[0]._replace(known={}), first=1)[0]
    assert np.abs(fresh.model.params["w"] - whole[1].model.params["w"]).max() > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "local_only"}, "--algorithm: expected one that hands out a model, found local_only"),
        ({"algorithm": "centralized"}, "--algorithm: expected one that hands out a model"),
        ({"dp_epsilon": 8.0}, "--dp.epsilon: expected 0 in a stream"),
        ({"patience": 3}, "--patience: expected 0 in a stream"),
        ({"fine_tune": 1}, "--fine_tune: expected 0 in a stream"),
        ({"finetune": "lora"}, "--finetune: expected full in a stream"),
        ({"topology": "asynchronous"}, "--topology: expected one with rounds that end, in a stream"),
        ({"algorithm": "ewc", "secure_aggregation": "secagg"}, "--secure_aggregation: expected none with"),
    ],
)
def test_what_does_not_go_on_from_block_to_block_is_refused(changes, message):
    with pytest.raises(FlagError) as found:
        check_stream(FederationSettings(**changes))
    assert str(found.value).startswith(message)


def test_states_of_other_clients_or_models_are_refused():
    algorithm = fl.fedbn(line(), optax.sgd(0.1))
    state = fl.init_state(algorithm, line().init(None), data_of("ab"))
    rows = fl.members.rows_by_client(state, ("a", "b"))
    with pytest.raises(ValueError, match=r"^names: expected 2, one of each client, found 3"):
        fl.members.rows_by_client(state, tuple("abc"))
    wrong = jax.tree.map(lambda x: x[:1], rows["a"])
    with pytest.raises(ValueError, match=r"^known\['a'\]: expected the state of this algorithm and model"):
        fl.members.with_members(state, ("a", "b"), state, {"a": wrong})
