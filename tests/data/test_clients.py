"""ClientData: padding, pooling, selection and the split by patient."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.data import ClientData, pool, select_clients, split_patients, stack_clients


def clients(counts, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "image": rng.normal(size=(n, 3, 2)).astype(np.float32),
            "kspace": (rng.normal(size=(n, 2)) + 1j).astype(np.complex64),
            "volume": np.arange(n, dtype=np.int32) // 2,
        }
        for n in counts
    ]


counts_strategy = st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any)


@given(counts_strategy)
def test_stacking_keeps_every_example_and_pads_with_zeros(counts):
    source = clients(counts)
    data = stack_clients(source, [f"site{i}" for i in range(len(counts))])
    assert data.clients == len(counts)
    np.testing.assert_array_equal(data.counts, counts)
    for index, client in enumerate(source):
        for key, value in client.items():
            assert data.examples[key].dtype == value.dtype
            np.testing.assert_array_equal(data.examples[key][index][data.valid[index]], value)
            assert not data.examples[key][index][~data.valid[index]].any()


@given(counts_strategy)
def test_pooling_holds_the_same_examples_and_separates_volumes(counts):
    source = clients(counts)
    pooled = pool(stack_clients(source, [str(i) for i in range(len(counts))]))
    assert pooled.clients == 1 and pooled.valid.all() and pooled.valid.sum() == sum(counts)
    np.testing.assert_array_equal(pooled.examples["image"][0], np.concatenate([c["image"] for c in source]))
    expected = [(i, v) for i, c in enumerate(source) for v in c["volume"]]
    found = pooled.examples["volume"][0]
    assert (
        len(set(zip(found.tolist(), expected, strict=True))) == len(set(expected)) == len(set(found.tolist()))
    )


@given(counts_strategy, st.data())
def test_selected_clients_are_the_clients_stacked_alone(counts, draw):
    names = [f"site{i}" for i in range(len(counts))]
    source = clients(counts)
    chosen = draw.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    selected = select_clients(stack_clients(source, names), chosen)
    assert selected.names == tuple(chosen)
    for index, name in enumerate(chosen):
        expected = source[names.index(name)]["image"]
        np.testing.assert_array_equal(selected.examples["image"][index][selected.valid[index]], expected)
    assert selected.valid.shape[1] == max(1, *[counts[names.index(n)] for n in chosen], 0)


def test_client_data_is_a_pytree_with_static_names():
    data = stack_clients(clients([2, 1]), ["a", "b"])
    assert len(jax.tree.leaves(data)) == 4
    doubled = jax.jit(lambda d: jax.tree.map(lambda x: x + x, d))(data)
    assert isinstance(doubled, ClientData) and doubled.names == ("a", "b")
    np.testing.assert_array_equal(doubled.examples["image"], 2 * data.examples["image"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c[1].pop("image"), "client 'b'"),
        (lambda c: c[1].update(image=c[1]["image"][:1]), "client 'b'"),
        (lambda c: c[1].update(image=c[1]["image"][:, :1]), "key 'image'"),
        (lambda c: c[1].update(image=c[1]["image"].astype(np.float64)), "float64"),
        (lambda c: c[1].update(image=np.float32(1)), "client 'b'"),
        (lambda c: c.pop(), "names"),
        (lambda c: c.clear(), "names"),
    ],
)
def test_stacking_names_what_disagrees(change, named):
    source = clients([3, 2])
    change(source)
    with pytest.raises(ValueError, match=named):
        stack_clients(source, ["a", "b"])


@pytest.mark.parametrize("names", [(), ("a", "a"), ("c",)])
def test_selecting_refuses_unknown_and_repeated_names(names):
    with pytest.raises(ValueError, match="names"):
        select_clients(stack_clients(clients([1, 1]), ["a", "b"]), names)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), min_size=60, max_size=80), st.integers(0, 9)
)
def test_split_is_a_partition_without_shared_patients(pairs, seed):
    sites = [f"site{s}" for s, _ in pairs]
    patients = [f"{s}-{p}" for s, p in pairs]
    if any(len({p for s, p in zip(sites, patients, strict=True) if s == site}) < 3 for site in set(sites)):
        with pytest.raises(ValueError, match="site"):
            split_patients(patients, seed=seed, sites=sites)
        return
    parts = split_patients(patients, seed=seed, sites=sites)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(pairs)))
    groups = [{patients[i] for i in part} for part in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    for part in parts:
        assert {sites[i] for i in part} == set(sites)


def test_split_does_not_depend_on_example_order_or_other_sites():
    patients = [f"p{i // 3}" for i in range(60)]
    order = np.random.default_rng(0).permutation(60)
    straight = split_patients(patients, seed=4)
    shuffled = split_patients([patients[i] for i in order], seed=4)
    for a, b in zip(straight, shuffled, strict=True):
        assert {patients[i] for i in a} == {patients[order[i]] for i in b}
    sites = ["a"] * 60 + ["b"] * 9
    both = split_patients(patients + [f"q{i}" for i in range(9)], seed=4, sites=sites)
    alone = split_patients(patients, seed=4, sites=["a"] * 60)
    for a, b in zip(alone, both, strict=True):
        np.testing.assert_array_equal(a, b[b < 60])
    assert any(set(a) != set(b) for a, b in zip(straight, split_patients(patients, seed=5), strict=True)), (
        "another seed gives another split"
    )


@given(st.integers(10, 200))
def test_split_fractions_are_kept_to_one_patient(count):
    sizes = [len(part) for part in split_patients(range(count))]
    assert sum(sizes) == count
    np.testing.assert_allclose(sizes, np.array([0.7, 0.1, 0.2]) * count, atol=1.0001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patient_ids": ["a", "b"]}, "at least 3"),
        ({"patient_ids": ["a", "b", "c"], "fractions": (0.5, 0.6)}, "sum to 1"),
        ({"patient_ids": ["a", "b", "c"], "fractions": (1.5, -0.5)}, "non-negative"),
        ({"patient_ids": ["a", "b"], "sites": ["x"]}, "sites"),
        ({"patient_ids": ["a", "a"], "sites": ["x", "y"], "fractions": (1.0,)}, "patient 'a'"),
    ],
)
def test_impossible_splits_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_patients(**arguments)
