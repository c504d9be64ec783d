"""The simulated MRI cohort: shapes, splits, skews, physics, and that there is no inverse crime."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrecon.data import (
    MRISite,
    mri_examples,
    plan_patients,
    resize_kspace,
    simulate_mri_cohort,
    simulate_mri_patient,
    simulated_mri_sites,
    to_native,
)
from fedrecon.data.clients.cohort import PARTS
from fedrecon.data.simulation import mri as mri_module
from fedrecon.data.simulation.anatomy import ANATOMIES, TISSUES, simulate_anatomy
from fedrecon.data.simulation.mri import coil_fields, tissue_signal
from fedrecon.data.simulation.planning import site_sizes
from operators import ifft2c

SHAPE = (48, 48)
HEAD = MRISite("head", "head", 230, 1.5, 550, 12, coils=4)


@pytest.fixture(scope="module")
def cohort():
    return simulate_mri_cohort(4, 4, 3, SHAPE, seed=1)


def clients(data):
    """Valid examples of each client."""
    for index, valid in enumerate(data.valid):
        yield {key: value[index][valid] for key, value in data.examples.items()}


def patient(site, lesions=False, index=0, slices=2, seed=0, shape=SHAPE):
    return simulate_mri_patient(site, index, lesions, shape, slices, seed)


def test_examples_have_the_shapes_and_types_that_networks_expect(cohort):
    coils = max(site.coils for site in cohort.sites)
    expected = {
        "kspace": ((coils, *SHAPE), np.complex64),
        "coil_maps": ((coils, *SHAPE), np.complex64),
        "mask": (SHAPE, np.float32),
        "target": (SHAPE, np.float32),
        "segmentation": (SHAPE, np.float32),
        "scale": ((), np.float32),
        "noise_level": ((), np.float32),
        "data_range": ((), np.float32),
        "volume": ((), np.int32),
        "label": ((), np.int32),
    }
    assert cohort.image_shape == SHAPE
    for part in PARTS:
        data = getattr(cohort, part)
        assert data.names == tuple(site.name for site in cohort.sites)
        found = {key: (value.shape[2:], value.dtype.type) for key, value in data.examples.items()}
        assert found == expected
        assert all(np.isfinite(value).all() for value in data.examples.values())


def test_unmeasured_samples_and_padded_coils_are_zero(cohort):
    assert len({site.coils for site in cohort.sites}) > 1
    for site, e in zip(cohort.sites, clients(cohort.train), strict=True):
        assert set(np.unique(e["mask"])) == {0.0, 1.0}
        assert not e["kspace"][np.broadcast_to(e["mask"][:, None] == 0, e["kspace"].shape)].any()
        assert not e["kspace"][:, site.coils :].any() and not e["coil_maps"][:, site.coils :].any()
        assert np.abs(e["kspace"][:, : site.coils]).max(axis=(2, 3)).all()
        power = np.sum(np.abs(e["coil_maps"]) ** 2, axis=1)
        np.testing.assert_allclose(power, 1, atol=1e-4)


def test_normalization_comes_from_the_measurement_and_is_undone_by_scale(cohort):
    for e in clients(cohort.test):
        combined = np.abs(np.sum(np.conj(e["coil_maps"]) * ifft2c(e["kspace"]), axis=1))
        for volume in set(e["volume"].tolist()):
            here = e["volume"] == volume
            np.testing.assert_allclose(np.percentile(combined[here], 99), 1, rtol=1e-4)
            np.testing.assert_array_equal(e["data_range"][here], e["target"][here].max())
    site = cohort.sites[0]
    first = int(cohort.patients["test"][0][0][-3:])
    lesions = bool(next(clients(cohort.test))["label"][:3].any())
    raw = simulate_mri_patient(site, first, lesions, SHAPE, 3, 1, max(s.coils for s in cohort.sites))
    e = next(clients(cohort.test))
    np.testing.assert_allclose(e["kspace"][:3] * e["scale"][0], raw.kspace, rtol=1e-5)
    np.testing.assert_allclose(e["target"][:3] * e["scale"][0], raw.reconstruction_rss, rtol=1e-5)


@pytest.mark.slow
def test_examples_do_not_depend_on_the_unit_and_their_scale_not_on_the_reference():
    raw = patient(HEAD)
    mask = raw.mask.astype(np.float32)
    one = mri_examples(raw.kspace, mask, raw.reconstruction_rss, (8, 4))
    unit = np.float32(1e-5)
    other = mri_examples(raw.kspace * unit, mask, raw.reconstruction_rss * unit, (8, 4))
    for key in ("kspace", "target", "coil_maps"):
        np.testing.assert_allclose(one[key], other[key], atol=1e-4)
    np.testing.assert_allclose(other["scale"], one["scale"] * unit, rtol=1e-5)
    changed = mri_examples(raw.kspace, mask, 3 * raw.reconstruction_rss, (8, 4))
    np.testing.assert_array_equal(changed["scale"], one["scale"])
    np.testing.assert_array_equal(changed["kspace"], one["kspace"])


def test_examples_refuse_disagreeing_shapes():
    raw = patient(HEAD)
    with pytest.raises(ValueError, match="target and mask"):
        mri_examples(raw.kspace, raw.mask[:-1], raw.reconstruction_rss, (8, 4))
    with pytest.raises(ValueError, match="coils"):
        mri_examples(raw.kspace, raw.mask, raw.reconstruction_rss, (8, 4), coils=2)
    with pytest.raises(ValueError, match="signal"):
        mri_examples(0 * raw.kspace, raw.mask, raw.reconstruction_rss, (8, 4))


def test_patients_are_split_before_slices(cohort):
    for client in range(cohort.train.clients):
        names = [set(cohort.patients[part][client]) for part in PARTS]
        assert all(names) and not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
        assert sum(map(len, names)) == cohort.sites[client].patients
        targets = [
            e["target"].reshape(len(e["target"]), -1)
            for e in (list(clients(getattr(cohort, part)))[client] for part in PARTS)
        ]
        likeness = np.corrcoef(np.concatenate(targets))
        assert np.all(likeness[np.triu_indices(len(likeness), 1)] < 0.9999)
        for part, part_names in zip(PARTS, names, strict=True):
            volumes = list(clients(getattr(cohort, part)))[client]["volume"]
            np.testing.assert_array_equal(volumes, np.repeat(np.arange(len(part_names)), 3))


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others():
    belly = dataclasses.replace(HEAD, name="belly", anatomy="abdomen", field_of_view=380, patients=3)
    sites = (dataclasses.replace(HEAD, patients=3), belly)
    one, two, other = (simulate_mri_cohort(sites, slices=1, image_shape=(32, 32), seed=s) for s in (3, 3, 4))
    for part in PARTS:
        a, b = getattr(one, part), getattr(two, part)
        assert a.examples.keys() == b.examples.keys()
        for key in a.examples:
            np.testing.assert_array_equal(a.examples[key], b.examples[key])
    assert not np.array_equal(one.train.examples["kspace"], other.train.examples["kspace"])


def test_a_site_does_not_depend_on_the_other_sites():
    both = simulate_mri_cohort(
        (dataclasses.replace(HEAD, name="a", patients=3), dataclasses.replace(HEAD, patients=3)),
        slices=1,
        image_shape=(32, 32),
    )
    alone = simulate_mri_cohort((dataclasses.replace(HEAD, patients=3),), slices=1, image_shape=(32, 32))
    np.testing.assert_array_equal(both.train.examples["kspace"][1], alone.train.examples["kspace"][0])


@given(st.integers(1, 8), st.integers(3, 12), st.floats(0, 0.99))
def test_size_skew_is_realized_and_keeps_the_total(sites, mean, skew):
    sizes = site_sizes(sites * mean, sites, skew)
    assert sum(sizes) == sites * mean and min(sizes) >= 3
    assert list(sizes) == sorted(sizes, reverse=True)
    if sites > 1 and (1 - skew) * mean >= 3:
        assert abs(sizes[0] - (1 + skew) * mean) <= 1 and abs(sizes[-1] - (1 - skew) * mean) <= 1


def test_label_skew_is_realized():
    for skew, low, high in ((0.0, 0.5, 0.5), (1.0, 0.1, 0.9)):
        sites = simulated_mri_sites(5, 40, size_skew=0.0, label_skew=skew)
        prevalences = [site.prevalence for site in sites]
        np.testing.assert_allclose([min(prevalences), max(prevalences)], [low, high])
        for site in sites:
            plan = plan_patients(site.name, site.patients, site.prevalence, 0)
            ill = [p.lesions for members in plan.values() for p in members]
            assert abs(np.mean(ill) - site.prevalence) < 0.06


@given(st.integers(3, 30), st.floats(0, 1), st.integers(0, 5))
def test_plans_have_ill_patients_where_they_are_needed(patients, prevalence, seed):
    plan = plan_patients("s", patients, prevalence, seed)
    ill = {part: sum(p.lesions for p in members) for part, members in plan.items()}
    if prevalence in (0, 1):
        assert sum(ill.values()) == prevalence * patients
    else:
        assert ill["train"] >= 1 and ill["test"] >= 1 and sum(ill.values()) < patients
    assert sorted(p.index for members in plan.values() for p in members) == list(range(patients))


def test_labels_mark_lesions_and_both_classes_occur_at_every_site(cohort):
    for part in ("train", "test"):
        for e in clients(getattr(cohort, part)):
            np.testing.assert_array_equal(e["label"], e["segmentation"].any(axis=(1, 2)))
            assert set(e["label"].tolist()) == {0, 1}
            for volume in set(e["volume"].tolist()):
                assert not e["label"][e["volume"] == volume].all(), "an end of each stack is free"


def test_lesions_are_visible_but_no_threshold_finds_them(cohort):
    contrasts, ranks = [], []
    for e in clients(cohort.train):
        for image, mask, peak in zip(e["target"], e["segmentation"] > 0, e["data_range"], strict=True):
            if mask.any():
                rim = np.zeros_like(mask)
                for dy, dx in np.ndindex(5, 5):
                    rim |= np.roll(mask, (dy - 2, dx - 2), (0, 1))
                contrasts.append(abs(image[mask].mean() - np.median(image[rim & ~mask])) / peak)
                ranks.append((image[image > 0.1 * peak] < image[mask].mean()).mean())
    assert np.median(contrasts) > 0.02
    assert 0.02 < np.median(ranks) < 0.98


@pytest.mark.parametrize("kind", sorted(ANATOMIES))
@pytest.mark.parametrize("seed", range(3))
def test_anatomies_are_fractions_with_lesions_inside_plausible_tissue(kind, seed):
    x = (np.arange(96) - 48) * 4.0
    healthy, ill = (
        simulate_anatomy(kind, np.random.default_rng(seed), x, -x, 3, 5.0, lesions)
        for lesions in (False, True)
    )
    np.testing.assert_allclose(ill.fractions.sum(0), 1, atol=1e-5)
    assert ill.fractions.min() >= 0 and healthy.lesion is None and not healthy.fractions[-1].any()
    lesion = ill.fractions[-1]
    hosts = ANATOMIES[kind][1]
    host = sum(healthy.fractions[healthy.tissues.index(name)] for name in hosts if name in healthy.tissues)
    assert lesion.max() > 0.9 and np.all(lesion <= host + 1e-5)
    ends = lesion[[0, -1]].max(axis=(1, 2))
    assert ends.min() == 0


@pytest.mark.slow
def test_neighboring_slices_resemble_each_other_more_than_patients_do():
    volumes = [patient(HEAD, index=i, slices=4).reconstruction_rss.reshape(4, -1) for i in range(3)]
    within = [np.corrcoef(v)[0, 1] for v in volumes]
    between = [np.corrcoef(a[0], b[0])[0, 1] for a in volumes for b in volumes if a is not b]
    assert min(within) > max(between) and max(within) < 0.9999


@pytest.mark.slow
def test_the_measurement_is_not_that_of_an_object_on_the_image_grid(monkeypatch):
    clean = dataclasses.replace(HEAD, snr=1e6, acceleration=1.0)
    fine = patient(clean).kspace
    monkeypatch.setattr(mri_module, "OVERSAMPLING", 1)
    crime = patient(clean).kspace
    monkeypatch.undo()
    noisy = patient(dataclasses.replace(clean, snr=30.0)).kspace
    noise = np.linalg.norm(noisy - fine)
    difference = np.linalg.norm(crime - fine)
    assert difference > 1000 * noise * 30 / 1e6, "more than the noise of this measurement"
    assert 0.01 < difference / np.linalg.norm(fine) < 0.5, "the same object, sampled otherwise"


def test_noise_is_white_complex_gaussian_of_the_stated_size():
    quiet, loud, louder = (
        patient(dataclasses.replace(HEAD, snr=snr, acceleration=1.0, reference_averages=10**8))
        for snr in (1e8, 40.0, 20.0)
    )
    noise = loud.kspace - quiet.kspace
    np.testing.assert_allclose(louder.kspace - quiet.kspace, 2 * noise, atol=1e-3)
    body = quiet.reconstruction_rss > 0.1 * np.percentile(quiet.reconstruction_rss, 99)
    # The signal is defined on the object itself, whose coil fields have a root sum of squares near one.
    signal = quiet.reconstruction_rss[body].mean()
    assert 0.4 < noise.real.std() * 40 / signal < 1.6
    np.testing.assert_allclose(noise.real.std(), noise.imag.std(), rtol=0.03)
    np.testing.assert_allclose(noise.std(axis=(0, 2, 3)), noise.std(), rtol=0.05)
    flat = noise.reshape(-1)
    assert abs(np.vdot(flat[1:], flat[:-1])) / np.vdot(flat, flat).real < 0.03


def test_the_reference_has_the_noise_of_many_averages():
    def reference(averages):
        return patient(dataclasses.replace(HEAD, snr=20.0, reference_averages=averages)).reconstruction_rss

    truth, one, sixteen = reference(10**8), reference(1), reference(16)
    body = truth > 0.3 * truth.max()
    ratio = (one - truth)[body].std() / (sixteen - truth)[body].std()
    np.testing.assert_allclose(ratio, 4, rtol=0.1)


def test_coil_fields_follow_the_field_of_a_loop_on_its_axis():
    radius, distance = 60.0, 150.0
    x = np.linspace(-100, 100, 41)
    field = np.abs(
        coil_fields(
            jnp.asarray(x, jnp.float32),
            jnp.zeros(1),
            jnp.asarray([[distance, 0.0]]),
            jnp.asarray([radius]),
            segments=64,
        )
    )[0, 0]
    expected = (radius**2 + (distance - x) ** 2) ** -1.5
    np.testing.assert_allclose(field / field[20], expected / expected[20], rtol=0.02)


def test_contrasts_are_those_of_the_sequences():
    t1 = {name: tissue_signal(TISSUES[name], HEAD) for name in ("fat", "white", "gray", "csf", "air", "bone")}
    assert t1["fat"] > t1["white"] > t1["gray"] > t1["csf"] > t1["air"] == 0
    t2_site = dataclasses.replace(HEAD, repetition_time=4500, echo_time=95)
    t2 = {name: tissue_signal(TISSUES[name], t2_site) for name in t1}
    assert t2["csf"] > t2["gray"] > t2["white"] > t2["bone"]
    flair = dataclasses.replace(HEAD, repetition_time=9000, echo_time=110, inversion_time=2500)
    assert tissue_signal(TISSUES["csf"], flair) < 0.3 * tissue_signal(TISSUES["gray"], flair)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["random", "equispaced", "poisson"])
def test_masks_measure_the_block_that_coils_are_estimated_from(mask):
    site = dataclasses.replace(HEAD, mask=mask)
    raw = patient(site, slices=1)
    ny, nx = mri_module.calibration_shape(site, SHAPE)
    rows = slice(24 - ny // 2 + 1, 24 + ny // 2)
    columns = slice(24 - nx // 2 + 1, 24 + nx // 2)
    assert raw.mask[rows, columns].all()
    assert 2 < raw.mask.size / raw.mask.sum() < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": (dataclasses.replace(HEAD, anatomy="knee"),)}, "anatomy"),
        ({"sites": (dataclasses.replace(HEAD, mask="spiral"),)}, "mask"),
        ({"sites": (dataclasses.replace(HEAD, prevalence=1.5),)}, "prevalence"),
        ({"sites": (dataclasses.replace(HEAD, patients=2),)}, "head"),
        ({"patients_per_site": 2}, "patients"),
        ({"size_skew": 1.0}, "size_skew"),
        ({"label_skew": -0.1}, "label_skew"),
    ],
)
def test_impossible_cohorts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_mri_cohort(**({"image_shape": (32, 32), "slices": 1} | arguments))


def test_more_sites_than_templates_are_different_sites():
    sites = simulated_mri_sites(8, 4)
    assert len({site.name for site in sites}) == 8
    assert sites[5].snr != sites[0].snr and sites[5].field_of_view != sites[0].field_of_view


sizes = st.integers(1, 24)


@given(sizes, sizes, st.integers(0, 20), st.integers(0, 20))
def test_padding_kspace_is_undone_exactly(ny, nx, more_y, more_x):
    kspace = (np.random.default_rng(0).normal(size=(2, ny, nx)) + 1j).astype(np.complex64)
    padded = resize_kspace(kspace, (ny + more_y, nx + more_x))
    assert padded[0, (ny + more_y) // 2, (nx + more_x) // 2] == kspace[0, ny // 2, nx // 2]
    np.testing.assert_allclose(np.linalg.norm(padded), np.linalg.norm(kspace), rtol=1e-6)
    np.testing.assert_array_equal(resize_kspace(padded, (ny, nx)), kspace)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 300.0])
@pytest.mark.parametrize(("ny", "nx", "more_y", "more_x"), [(8, 7, 5, 9), (5, 6, 0, 1), (1, 12, 3, 12)])
def test_images_come_back_to_the_scanners_matrix_and_unit(scale, ny, nx, more_y, more_x):
    rng = np.random.default_rng(1)
    kspace = (scale * (rng.normal(size=(2, ny, nx)) + 1j * rng.normal(size=(2, ny, nx)))).astype(np.complex64)
    common = ifft2c(resize_kspace(kspace, (ny + more_y, nx + more_x)) / np.float32(scale))
    native = to_native(common, (ny, nx), scale)
    np.testing.assert_allclose(native, ifft2c(kspace), atol=1e-5 * scale)
