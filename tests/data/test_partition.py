"""Partitions: every example once, patients whole, and the skew is the one that was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from fedrecon.data.clients.feature_shift import FeatureShift, draw_feature_shifts, shift_features
from fedrecon.data.clients.partition import (
    case_type_partition,
    dirichlet_partition,
    label_counts,
    partition_examples,
    quantity_partition,
    shard_partition,
    site_partition,
)
from fedrecon.reporting.partition_plot import plot_partition, save_partition_plot

KINDS = {
    "dirichlet": lambda labels, clients, **k: dirichlet_partition(labels, clients, 0.3, **k),
    "balanced": lambda labels, clients, **k: dirichlet_partition(labels, clients, 0.3, balanced=True, **k),
    "sizes": lambda labels, clients, **k: quantity_partition(len(labels), clients, concentration=0.5, **k),
    "power": lambda labels, clients, **k: quantity_partition(len(labels), clients, exponent=1.0, **k),
    "shards": lambda labels, clients, **k: shard_partition(labels, clients, 2, **k),
}


def check_partition(parts, examples, clients):
    assert len(parts) == clients
    assert all(part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(examples))


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(1, 8), st.integers(0, 80), st.integers(1, 5), st.integers(0, 2**40))
def test_every_example_has_exactly_one_client(kind, clients, surplus, labels, seed):
    examples = 2 * clients + surplus
    labels = np.random.default_rng(seed).integers(labels, size=examples)
    parts = KINDS[kind](labels, clients, seed=seed)
    check_partition(parts, examples, clients)
    assert min(len(part) for part in parts) >= 1
    for part, again in zip(parts, KINDS[kind](labels, clients, seed=seed), strict=True):
        np.testing.assert_array_equal(part, again)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.integers(0, 40), min_size=60, max_size=90), st.integers(1, 6), st.integers(0, 99))
def test_patients_are_never_torn_apart(kind, patients, clients, seed):
    if len(set(patients)) < 2 * clients:
        return
    labels = np.random.default_rng(seed).integers(3, size=len(patients))
    parts = KINDS[kind](labels, clients, patients=[f"p{p}" for p in patients], seed=seed)
    check_partition(parts, len(patients), clients)
    homes = [{patients[i] for i in part} for part in parts]
    assert sum(map(len, homes)) == len(set(patients))


def test_another_seed_gives_another_partition():
    labels = np.arange(200) % 5
    for name, kind in KINDS.items():
        one, two = kind(labels, 4, seed=1), kind(labels, 4, seed=2)
        assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True)), name


@pytest.mark.parametrize("balanced", [False, True])
def test_a_large_concentration_gives_the_proportions_of_the_whole(balanced):
    labels = np.repeat([0, 1, 2], [3000, 2000, 1000])
    parts = dirichlet_partition(labels, 4, 1e7, balanced=balanced, seed=0)
    counts, _ = label_counts(labels, parts)
    shares = counts / counts.sum(1, keepdims=True)
    # Exact division, or draws of 1500 examples: three standard deviations.
    np.testing.assert_allclose(shares, [[1 / 2, 1 / 3, 1 / 6]] * 4, atol=0.04 if balanced else 0.002)
    np.testing.assert_allclose(counts.sum(1), 1500, atol=2)


def test_a_small_concentration_gives_each_label_to_one_client():
    labels = np.arange(1000) % 10
    counts, _ = label_counts(labels, dirichlet_partition(labels, 5, 1e-4, minimum=0, seed=3))
    assert np.all(counts.max(0) == 100)


def test_balanced_and_small_gives_each_client_nearly_one_label():
    labels = np.arange(2000) % 10
    counts, _ = label_counts(labels, dirichlet_partition(labels, 5, 1e-3, balanced=True, seed=3))
    assert np.all(counts.sum(1) == 400)
    # A label has 200 examples, half of a client; several clients may want the same one.
    assert np.median((counts > 0).sum(1)) <= 4
    even, _ = label_counts(labels, dirichlet_partition(labels, 5, 1e3, balanced=True, seed=3))
    assert np.all((even > 0).sum(1) == 10)


def test_shares_have_the_moments_of_a_dirichlet():
    clients, concentration, draws = 5, 0.7, 400
    labels = np.zeros(500, int)
    shares = np.asarray(
        [
            [len(p) / 500 for p in dirichlet_partition(labels, clients, concentration, minimum=0, seed=seed)]
            for seed in range(draws)
        ]
    )
    variance = (1 / clients) * (1 - 1 / clients) / (clients * concentration + 1)
    np.testing.assert_allclose(shares.mean(0), 1 / clients, atol=4 * np.sqrt(variance / draws))
    np.testing.assert_allclose(shares.var(0).mean(), variance, rtol=0.15)


def test_the_shares_of_balanced_clients_have_the_moments_of_a_dirichlet():
    labels = np.repeat([0, 1], [240, 560])
    first = []
    for seed in range(120):
        # With few clients and many examples, the first draw hardly meets an empty stock.
        counts, _ = label_counts(labels, dirichlet_partition(labels, 20, 4.0, balanced=True, seed=seed))
        first.append(counts[0, 0] / counts[0].sum())
    variance = 0.3 * 0.7 / 5
    np.testing.assert_allclose(np.mean(first), 0.3, atol=4 * np.sqrt(variance / 120))


def test_sizes_follow_the_power_law():
    parts = quantity_partition(1100, 3, exponent=1.0, seed=0)
    np.testing.assert_allclose([len(p) for p in parts], [600, 300, 200], atol=1)
    assert {len(p) for p in quantity_partition(90, 9, exponent=0.0)} == {10}


def test_a_client_has_few_labels_under_shards():
    labels = np.random.default_rng(0).permutation(np.arange(1000) % 10)
    parts = shard_partition(labels, 10, 2, seed=0)
    counts, _ = label_counts(labels, parts)
    assert np.all(counts.sum(1) == 100) and np.all((counts > 0).sum(1) <= 2)


@given(st.integers(0, 20), st.integers(0, 999))
def test_the_minimum_is_kept(minimum, seed):
    labels = np.arange(100) % 4
    parts = dirichlet_partition(labels, 5, 0.01, minimum=minimum, seed=seed)
    assert min(len(part) for part in parts) >= minimum
    check_partition(parts, 100, 5)


def test_sites_are_clients_in_the_order_of_appearance():
    parts, names = site_partition(["b", "a", "b", "c"])
    assert names == ("b", "a", "c")
    assert [part.tolist() for part in parts] == [[0, 2], [1], [3]]


def test_text_labels_serve_as_well_as_numbers():
    numbers = np.arange(60) % 3
    text = np.asarray(["x", "y", "z"])[numbers]
    for a, b in zip(dirichlet_partition(numbers, 4, 0.5), dirichlet_partition(text, 4, 0.5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert label_counts(text, [np.arange(60)])[1] == ("x", "y", "z")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: dirichlet_partition([0, 1], 2, 0.0), "concentration"),
        (lambda: dirichlet_partition([0, 1], 2, np.nan), "concentration"),
        (lambda: dirichlet_partition([0, 1], 0, 1.0), "clients"),
        (lambda: dirichlet_partition([0, 1], 2.0, 1.0), "clients"),
        (lambda: dirichlet_partition([0, 1], 2, 1.0, minimum=2), "minimum: expected at most 1"),
        (lambda: dirichlet_partition([0, 1], 2, 1.0, minimum=-1), "minimum"),
        (lambda: dirichlet_partition([0.5, 1], 2, 1.0), "labels"),
        (lambda: dirichlet_partition([[0, 1]], 2, 1.0), "labels"),
        (lambda: dirichlet_partition([0, 1], 2, 1.0, patients=["a"]), "patients: expected 2"),
        (lambda: dirichlet_partition([0, 1], 2, 1.0, patients=["a", "a"]), "number of patients 1"),
        (lambda: dirichlet_partition([0] * 6, 2, 1.0, minimum=3, patients="aaaabc"), "minimum: .*patients"),
        (lambda: dirichlet_partition([0, 1], 2, 1.0, seed=-1), "seed"),
        (lambda: quantity_partition(4, 2), "concentration, exponent"),
        (lambda: quantity_partition(4, 2, exponent=-1.0), "exponent"),
        (lambda: quantity_partition(4, 2, concentration=-1.0), "concentration"),
        (lambda: quantity_partition(0, 2, exponent=1.0), "examples"),
        (lambda: shard_partition([0, 1, 2], 2, 2), "shards_per_client: expected at most"),
        (lambda: shard_partition([0, 1, 2], 2, 0), "shards_per_client"),
        (lambda: site_partition([]), "sites"),
        (lambda: partition_examples({"x": np.zeros(3)}, [np.array([0, 3])]), "parts"),
        (lambda: partition_examples({"x": np.zeros(3)}, [np.array([0]), np.array([0])]), "parts"),
        (lambda: FeatureShift(gain=0.0), "gain"),
        (lambda: FeatureShift(blur=-1.0), "blur"),
        (lambda: draw_feature_shifts(2, -1.0), "strength"),
    ],
)
def test_errors_name_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_clients_get_their_examples_and_volumes_are_renumbered():
    examples = {"x": np.arange(6.0), "volume": np.array([7, 7, 3, 9, 9, 3], np.int32)}
    data = partition_examples(examples, [np.array([0, 1, 3]), np.array([2, 5])])
    assert data.names == ("client0", "client1")
    np.testing.assert_array_equal(data.examples["x"], [[0, 1, 3], [2, 5, 0]])
    np.testing.assert_array_equal(data.examples["volume"], [[0, 0, 1], [0, 0, 0]])
    assert data.examples["volume"].dtype == np.int32


def images(clients=3, examples=4, size=16):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(clients * examples, size, size, 1)).astype(np.float32)
    parts = np.split(np.arange(clients * examples - 1), [examples, 2 * examples])
    return partition_examples({"image": values, "label": np.arange(len(values))}, parts)


def test_the_identity_shift_changes_nothing_and_padding_stays_zero():
    data = images()
    same = shift_features(data, [FeatureShift()] * 3)
    np.testing.assert_array_equal(same.examples["image"], data.examples["image"])
    shifted = shift_features(data, draw_feature_shifts(3, 1.0), seed=4)
    assert not shifted.examples["image"][~data.valid].any()
    assert np.all(shifted.examples["image"][data.valid].std((1, 2, 3)) > 0)
    np.testing.assert_array_equal(shifted.examples["label"], data.examples["label"])
    again = shift_features(data, draw_feature_shifts(3, 1.0), seed=4)
    np.testing.assert_array_equal(shifted.examples["image"], again.examples["image"])
    assert draw_feature_shifts(5, 0.3)[:2] == draw_feature_shifts(2, 0.3)


def test_each_part_of_a_shift_does_what_it_says():
    data = images(size=32)
    before = np.asarray(data.examples["image"])[data.valid]

    def after(**shift):
        return shift_features(data, [FeatureShift(**shift)] * 3).examples["image"][data.valid]

    np.testing.assert_allclose(after(gain=2.0), 2 * before, rtol=1e-6)
    largest = np.abs(before).max((1, 2, 3), keepdims=True)
    expected = np.sign(before) * largest * (np.abs(before) / largest) ** 0.5
    np.testing.assert_allclose(after(gamma=0.5), expected, rtol=1e-5)
    np.testing.assert_allclose((after(noise=0.3) - before).std(), 0.3, rtol=0.05)
    # White noise through a Gaussian of width s keeps 1 / (4 pi s^2) of its variance, and its mean.
    np.testing.assert_allclose(after(blur=1.5).var() / before.var(), 1 / (4 * np.pi * 1.5**2), rtol=0.2)
    np.testing.assert_allclose(after(blur=1.5).mean((1, 2)), before.mean((1, 2)), atol=1e-5)


def test_the_plot_has_a_bar_of_every_client_and_is_a_png(tmp_path):
    counts = np.array([[3, 0], [1, 4], [0, 2]])
    axis = plot_partition(counts, ["a", "b", "c"], ["x", "y"]).axes[0]
    widths = np.array([bar.get_width() for bar in axis.patches]).reshape(2, 3).T
    np.testing.assert_array_equal(widths, counts)
    starts = np.array([bar.get_x() for bar in axis.patches]).reshape(2, 3).T
    np.testing.assert_array_equal(starts, [[0, 3], [0, 1], [0, 0]])
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b", "c"]
    save_partition_plot(tmp_path / "p.png", counts, ["a", "b", "c"], ["x", "y"])
    assert imread(tmp_path / "p.png").ndim == 3
    with pytest.raises(ValueError, match="counts"):
        plot_partition(counts, ["a"], ["x", "y"])


def test_the_plot_of_many_clients_has_one_shape_for_each_label(tmp_path):
    counts = np.random.default_rng(0).integers(0, 9, (1000, 2))
    axis = plot_partition(counts, [str(i) for i in range(1000)], ["x", "y"]).axes[0]
    outlines = [{tuple(point) for point in shape.get_paths()[0].vertices} for shape in axis.collections]
    assert len(outlines) == 2
    for client, (x, y) in enumerate(counts):
        for edge in (client - 0.5, client + 0.5):
            assert (x, edge) in outlines[0] and {(x, edge), (x + y, edge)} <= outlines[1]


def test_case_types_are_the_classes_that_patients_have():
    """Of all slices together: an organ in one and a tumor in another are one case."""
    slices = np.zeros((7, 2, 2), np.int32)
    slices[0, 0, 0], slices[1, 0, 0], slices[2, 1] = 1, 1, 2
    slices[5, 0] = [1, 2]
    parts, names = case_type_partition(slices, ["a", "b", "b", "c", "a", "d", "a"])
    assert names == ("1", "1+2", "none")
    assert [part.tolist() for part in parts] == [[0, 4, 6], [1, 2, 5], [3]]
    with pytest.raises(ValueError, match=r"^patients: expected one for each of 7 examples, found 1$"):
        case_type_partition(slices, ["a"])
