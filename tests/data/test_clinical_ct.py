"""Clinical CT seen again by simulated scanners: blocks of slices, spheres, units and what is refused."""

import itertools

import h5py
import numpy as np
import pytest

from fedrecon.data import DataError
from fedrecon.data.measured import ct, load_clinical_ct

FILES = ("ct/clinical_ct_512.h5", "ct/clinical_ct_body_3mm.h5")


@pytest.fixture
def folder(tmp_path):
    """Two bodies of 100 HU: a cylinder in air, and a square that fills an odd image."""
    (tmp_path / "ct").mkdir()
    y, x = np.mgrid[:32, :32] - 15.5
    disc = np.where(np.hypot(y, x) < 13, 100, -1024).astype(np.int16)
    square = np.full((30, 27, 31), 100, np.int16)
    square[:, :2] = 3071
    for file, image, pixel, spacing in zip(
        FILES, (np.repeat(disc[None], 20, 0), square), (5.0, 6.0), (2.0, 5.0), strict=True
    ):
        with h5py.File(tmp_path / file, "w") as opened:
            opened["image"] = image
            opened.attrs["pixel_spacing_mm"] = [pixel, pixel]
            opened.attrs["slice_spacing_mm"] = spacing
    return tmp_path


@pytest.mark.parametrize(("slices", "spacing"), [(20, 2.0), (112, 3.0), (9, 3.0), (400, 0.5), (61, 6.0)])
def test_blocks_of_a_body_are_disjoint_and_a_gap_apart(slices, spacing):
    for seed in range(5):
        blocks = ct.blocks_of(slices, spacing, np.random.default_rng(seed))
        part_of = np.full(slices, -1)
        for number, part in enumerate(blocks.values()):
            for block in part:
                assert block.stop <= slices and (part_of[block] == -1).all() and block.stop > block.start
                part_of[block] = number
        used = np.flatnonzero(part_of >= 0)
        for a, b in itertools.pairwise(used):
            assert part_of[a] == part_of[b] or (b - a - 1) * spacing >= 6
        counts = np.bincount(part_of[used])
        assert len(counts) == 3 and counts[0] >= counts[1:].max()
    with pytest.raises(ValueError, match="slices: expected at least 7"):
        ct.blocks_of(6, 3.0, np.random.default_rng(0))


def test_measured_again_images_keep_their_units_and_spheres_their_ct_number(folder):
    cohort = load_clinical_ct(folder, size=16, views=8)
    assert cohort.train.names == ("Basel, Siemens", "Basel") and "nothing is said about" in cohort.notes
    assert [site.field_of_view for site in cohort.sites] == [160.0, 192.0]
    assert cohort.patients["train"] == cohort.patients["test"] == (("ct-body-1",), ("ct-body-2",))
    for part in (cohort.train, cohort.validation, cohort.test):
        for site, valid in enumerate(part.valid):
            examples = {name: x[site][valid] for name, x in part.examples.items()}
            target, mask = examples["target"], examples["segmentation"] > 0
            # Air is nothing and water would be 1; a sphere's own number is at its middle.
            assert target.min() == 0 and mask.any()
            assert target[mask].max() == pytest.approx(1.18, abs=1e-5)
            assert (examples["label"] == mask.any((1, 2))).all() and not examples["volume"].any()
            if site == 0:
                # What every view sees sums to the image, in pixels and water.
                mass = target.sum((1, 2))[:, None].repeat(8, 1)
                np.testing.assert_allclose(examples["sinogram"].sum(-1), mass, rtol=0.03)
    square = cohort.train.examples["target"][1][cohort.train.valid[1]]
    assert square.max() == pytest.approx(4.071)
    # Pixels of 12 mm on a grid of 192 mm, of which the file's 27 x 31 pixels of 6 mm are in the middle.
    np.testing.assert_allclose(square[:, 1, 8], 4.071, rtol=1e-6)
    np.testing.assert_allclose(square[:, 0, 8], 0)


def test_the_same_seed_gives_the_same_cohort_and_another_one_other_blocks(folder):
    first, again, other = (
        load_clinical_ct(folder, size=16, views=8, seed=seed).train.examples for seed in (1, 1, 2)
    )
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert first["segmentation"].shape != other["segmentation"].shape or not np.array_equal(
        first["segmentation"], other["segmentation"]
    )


def test_copies_are_the_same_slices_with_other_spheres_and_the_last_ones_have_none(folder):
    cohort = load_clinical_ct(folder, size=16, views=8, copies=3, healthy=1)
    one = load_clinical_ct(folder, size=16, views=8)
    assert cohort.patients["test"][0] == tuple(f"ct-body-1, copy {i}" for i in (1, 2, 3))
    assert [site.prevalence for site in cohort.sites] == pytest.approx([2 / 3, 2 / 3])
    for part, single in ((cohort.train, one.train), (cohort.test, one.test)):
        for site in range(2):
            valid = part.valid[site]
            volume, mask, target, sinogram = (
                np.asarray(part.examples[name][site])[valid]
                for name in ("volume", "segmentation", "target", "sinogram")
            )
            count = single.valid[site].sum()
            np.testing.assert_array_equal(volume, np.repeat(np.arange(3), count))
            masks, targets, measured = (x.reshape(3, count, *x.shape[1:]) for x in (mask, target, sinogram))
            assert masks[0].any() and masks[1].any() and not masks[2].any()
            # The same bodies in every copy: only spheres and their edges differ.
            away = ~(masks > 0).any(0) & (np.abs(targets - targets[2]).max(0) == 0)
            assert away.mean() > 0.5 and (targets[0] != targets[1]).any()
            assert not np.array_equal(measured[0], measured[1])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("pixel_spacing_mm", [1.0, 2.0], "square pixels"),
        ("pixel_spacing_mm", [0.0, 0.0], "2 positive numbers"),
        ("slice_spacing_mm", np.nan, "1 positive numbers"),
    ],
)
def test_files_without_spacings_are_refused_by_name(folder, name, value, words):
    with h5py.File(folder / FILES[0], "a") as file:
        file.attrs[name] = value
    with pytest.raises(DataError, match=f"clinical_ct_512.h5.*{name}.*{words}"):
        load_clinical_ct(folder, size=16)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 24}, "size"),
        ({"views": 1}, "views"),
        ({"copies": 0}, "copies"),
        ({"copies": 2, "healthy": 2}, "healthy"),
    ],
)
def test_sizes_out_of_range_are_refused(folder, given, words):
    with pytest.raises(ValueError, match=f"{words}: expected"):
        load_clinical_ct(folder, **given)


def test_a_missing_file_is_named(folder):
    (folder / FILES[1]).unlink()
    with pytest.raises(DataError, match="clinical_ct_body_3mm"):
        load_clinical_ct(folder, size=16)
