"""Configurations beside those that nnU-Net has published, and what sites tell for them."""

import numpy as np
import pytest

from fedrecon.tasks import Fingerprint, configure, fingerprint

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
