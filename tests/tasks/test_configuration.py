"""Configurations beside those that nnU-Net has published, and what sites tell for them."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrecon.tasks import Configured, Fingerprint, configure, configured, fingerprint
from fedrecon.training import named_task

# Isensee et al. 2021, supplement: median shape and spacing, cases -> patch, batch, poolings.
PUBLISHED = {
    "hippocampus": ((36, 50, 35), (1, 1, 1), 260, (40, 56, 40), 9, (3, 3, 3)),
    "brain tumor": ((138, 170, 138), (1, 1, 1), 484, (128, 128, 128), 2, (5, 5, 5)),
    "prostate": ((20, 320, 319), (3.6, 0.62, 0.62), 32, (20, 320, 256), 2, (2, 6, 6)),
    "liver": ((482, 512, 512), (1, 0.767, 0.767), 131, (128, 128, 128), 2, (5, 5, 5)),
    "spleen": ((187, 512, 512), (1.6, 0.79, 0.79), 41, (64, 192, 160), 2, (4, 5, 5)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_are_those_published(name):
    shape, spacing, cases, patch, batch, pools = PUBLISHED[name]
    found = configure([fingerprint([shape] * cases, [spacing] * cases)])
    assert (found.patch, found.batch, found.pools) == (patch, batch, pools)
    np.testing.assert_allclose(found.spacing, spacing, rtol=0.011)
    np.testing.assert_allclose(found.shape, shape, rtol=0.015)


def test_sites_together_have_the_median_and_the_moments_of_all_cases():
    rng = np.random.default_rng(0)
    spacings = [rng.choice([0.5, 0.8, 1.0, 1.6], (40 + 10 * i, 2), p=[0.2, 0.3, 0.3, 0.2]) for i in range(3)]
    shapes = [np.full(s.shape, 200) for s in spacings]
    values = [rng.normal(5, 2, 50) for _ in range(3)]
    sites = [fingerprint(*site, minimum=1) for site in zip(shapes, spacings, values, strict=True)]
    found = configure(sites)
    assert found == configure([Fingerprint(*(sum(parts) for parts in zip(*sites, strict=True)))])
    np.testing.assert_allclose(found.spacing, np.median(np.concatenate(spacings), 0), rtol=0.011)
    everything = np.concatenate(values)
    np.testing.assert_allclose(
        (found.mean, found.deviation), (everything.mean(), everything.std()), rtol=1e-9
    )
    assert all(p % 2**k == 0 for p, k in zip(found.patch, found.pools, strict=True))


def test_coarse_axes_take_the_tenth_percentile():
    # One case in five has slices of 3 mm, the others of 6: finer than the median, coarser than the others.
    spacings = [(3.0, 0.7, 0.7)] * 20 + [(6.0, 0.7, 0.7)] * 80
    found = configure([fingerprint([(20, 300, 300)] * 100, spacings)])
    np.testing.assert_allclose(found.spacing, (3, 0.7, 0.7), rtol=0.011)
    # With as many slices as pixels it is the median.
    found = configure([fingerprint([(300, 300, 300)] * 100, spacings)])
    np.testing.assert_allclose(found.spacing, (6, 0.7, 0.7), rtol=0.011)


def test_small_counts_do_not_leave_the_site():
    shapes, spacings = [(100, 100)] * 12, [(1.0, 1.0)] * 9 + [(2.0, 1.0)] * 3
    told = fingerprint(shapes, spacings)
    assert told.spacing[0].sum() == 9 and told.spacing[1].sum() == 12
    few = fingerprint(shapes[:4], spacings[:4], [1.0, 2.0])
    assert few.spacing.sum() == few.extent.sum() == few.cases == few.intensity.sum() == 0
    with pytest.raises(ValueError, match="spacing: expected counts of cases that are not all suppressed"):
        configure([few])
    assert np.isnan(configure([told]).mean)
    with pytest.raises(ValueError, match="spacings: expected lengths above"):
        fingerprint(shapes, [(0.0, 1.0)] * 12)
    with pytest.raises(ValueError, match="memory: expected enough for the smallest patch"):
        configure([told], memory=1e-7)


def test_strides_and_widths_follow_the_spacing():
    """By hand: slices of 3.6 mm next to pixels of 0.62 take part once those are 2.48 mm."""
    shape, spacing, cases, *_ = PUBLISHED["prostate"]
    found = configure([fingerprint([shape] * cases, [spacing] * cases)])
    plane, all_axes = (1, 2, 2), (2, 2, 2)
    assert found.strides == (plane, plane, all_axes, all_axes, plane, plane)
    assert found.windows == ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 5)
    assert found.most == 320
    shape, spacing, cases, *_ = PUBLISHED["spleen"]
    found = configure([fingerprint([shape] * cases, [spacing] * cases)])
    # 1.6 / 0.79 is above 2; 1.6 / 1.58 is not, and four halvings of 64 slices leave four.
    assert found.strides == (plane, *(all_axes,) * 4)
    assert found.windows == ((1, 3, 3), *((3, 3, 3),) * 5)


@settings(max_examples=30)
@given(
    st.lists(st.integers(9, 600), min_size=2, max_size=3),
    st.lists(st.floats(0.3, 6.0), min_size=3, max_size=3),
    st.integers(5, 300),
)
def test_what_holds_for_every_configuration(shape, spacings, cases):
    spacing = spacings[: len(shape)]
    found = configure([fingerprint([shape] * cases, [spacing] * cases)])
    strides = np.array(found.strides).reshape(-1, len(shape))
    assert tuple(np.log2(strides.prod(0)).astype(int)) == found.pools
    coarsest = np.array(found.patch) // strides.prod(0)
    # Four pixels remain, unless an axis had fewer than eight to begin with.
    assert all(c >= 4 or not k for c, k in zip(coarsest, found.pools, strict=True))
    assert all(
        p % 2**k == 0 and p < n + 2**k for p, k, n in zip(found.patch, found.pools, found.shape, strict=True)
    )
    assert len(found.windows) == len(found.strides) + 1 and found.windows[-1] == (3,) * len(shape)
    # Widths never shrink, and an axis that is not halved although it has pixels is a coarse one.
    assert (np.diff(found.windows, axis=0) >= 0).all()
    scale, size = np.array(found.spacing), np.array(found.patch)
    for factors in strides:
        for axis in np.flatnonzero((factors == 1) & (size >= 8)):
            assert scale[axis] >= 2 * scale[factors == 2].min() * (1 - 1e-9)
        scale, size = scale * factors, -(-size // factors)
    voxels = cases * np.prod(found.shape)
    assert found.batch == 2 or found.batch * np.prod(found.patch) <= 0.05 * voxels + 0.5 * np.prod(
        found.patch
    )


def test_foreground_is_clipped_to_its_percentiles():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(-50, 40, 200000), [-1000.0, 3000.0]])
    found = configure(
        [
            fingerprint([(50, 50)] * 9, [(1.0, 1.0)] * 9, part)
            for part in np.array_split(rng.permutation(values), 3)
        ]
    )
    np.testing.assert_allclose((found.low, found.high), np.percentile(values, (0.5, 99.5)), rtol=0.03)
    np.testing.assert_allclose((found.mean, found.deviation), (values.mean(), values.std()))


def site(patients, value, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((2 * patients, 32, 44)) < 0.1
    image = (value + mask + 0.1 * rng.normal(size=mask.shape))[..., None].astype(np.float32)
    return {"image": image, "segmentation": mask, "volume": np.arange(2 * patients) // 2}


def test_sites_of_few_patients_tell_nothing_and_the_rest_configures_a_task():
    sites = {"large": site(6, 3.0, 0), "small": site(4, 1e6, 1)}
    found = configured(sites, channels=2)
    assert found.told == ("large",)
    assert found == configured({"large": sites["large"]}, channels=2)
    # 32 halves to 4 in 3 steps, 44 to 6, of which the multiple of 8 would be 48.
    assert found.configuration.strides == ((2, 2),) * 3 and found.configuration.patch == (32, 44)
    again = Configured.from_document(json.loads(json.dumps(found.as_document())))
    assert again == found and "from counts of 1 sites (large)" in found.sentence()
    x = 1000 + np.random.default_rng(2).normal(size=(2, 32, 44, 3))
    np.testing.assert_allclose(found.normalize()(x).mean((1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(found.normalize()(x).std((1, 2)), 1, rtol=1e-3)
    by_foreground = configured(sites, channels=2, normalization="foreground")
    mean, deviation = by_foreground.configuration.mean, by_foreground.configuration.deviation
    marked = sites["large"]["image"][sites["large"]["segmentation"]]
    np.testing.assert_allclose((mean, deviation), (marked.mean(), marked.std()), rtol=1e-5)
    np.testing.assert_allclose(by_foreground.normalize()(np.full((1, 2, 2, 1), mean)), 0, atol=1e-6)
    example = {key: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for key, x in sites["large"].items()}
    task = named_task(
        "segmentation", example, network="unet-deep-supervision", channels=2, configuration=found
    )
    params = jax.eval_shape(task.init, jax.random.key(0)).params
    assert "block3" in params["encoder"] and "head1" in params and "head2" not in params
    with pytest.raises(ValueError, match="configure: expected a site with 7 training patients or more"):
        configured(sites, channels=2, minimum=7)
    with pytest.raises(ValueError, match=r"network: expected one of unet, .*, to configure"):
        named_task("segmentation", example, network="swin-unet", channels=2, configuration=found)
