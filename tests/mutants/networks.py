"""Mutants of networks by name, losses and metrics of segmentation, patches and configurations."""

from tests.mutants.mutant import in_file

_NAMED = "tests/models/test_named_networks.py::test_"
_SAME = _NAMED + "outputs_are_those_of_torchvision"
_CBAM = _NAMED + "cbam_weighs_channels_and_then_pixels"

_LOSSES = "tests/tasks/test_segmentation_losses.py::test_"
_ENTROPY = _LOSSES + "cross_entropy_is_weighted_and_focused_over_scored_pixels"
_BOUNDARY = _LOSSES + "boundary_loss_is_the_mean_distance_where_a_class_is_predicted"
_FINDINGS = _LOSSES + "findings_are_weighted_and_what_is_uncertain_does_not_count"
_SURFACES = "tests/tasks/test_overlap.py::test_distances_of_surfaces_of_volumes_are_those_of_monai"
_PATCHES = "tests/tasks/test_patches.py::test_"
_CUT = _PATCHES + "patches_are_cut_alike_and_follow_the_foreground"
_ALIKE = _PATCHES + "classes_are_looked_at_alike_however_large"
_BLENDED = _PATCHES + "windows_are_blended_by_gaussians"
_RULES = "tests/tasks/test_configuration.py::test_"
_PUBLISHED = _RULES + "configurations_are_those_published"
_COARSE = _RULES + "coarse_axes_take_the_tenth_percentile"
_LAWS = _RULES + "what_holds_for_every_configuration"
_STRIDES = _RULES + "strides_and_widths_follow_the_spacing"
_CLIPPED = _RULES + "foreground_is_clipped_to_its_percentiles"
_FEW = _RULES + "sites_of_few_patients_tell_nothing_and_the_rest_configures_a_task"
_MATCHED = "tests/evaluation/test_lesions.py::test_"
_OVERLAP = _MATCHED + "lesions_are_matched_by_their_overlap"
_COX = "tests/experiments/test_flamby.py::test_"
_FLAG = "tests/experiments/test_network_flag.py::test_"
_UNET = "tests/models/test_unet.py::test_"
_SIZES = _UNET + "any_image_size_comes_back"
_SLICES = _UNET + "poolings_within_slices_give_the_slices_of_images"
_PADDED = _UNET + "poolings_of_some_axes_pad_to_their_product"
_SEEN = _FLAG + "representations_are_what_the_head_sees"

MUTANTS = (
    *in_file(
        "fedrecon/models/plain_networks.py",
        ("-(-(i + 1) * length // size)", "(i + 1) * length // size", _SAME),
        ("jnp.moveaxis(pool_to(x, self.pooled), -1, 1)", "pool_to(x, self.pooled)", _SAME),
    ),
    *in_file(
        "fedrecon/models/residual_networks.py",
        ("return ((window // 2, window // 2),) * (x.ndim - 2)", 'return "SAME"', _SAME),
        ("y = convolve(nn.relu(y) if i else y, features", "y = convolve(y, features", _SAME),
        (
            "if kind is InstanceNorm and max(x.shape[1:-1]) == 1:",
            "if False:",
            _NAMED + "refusals",
        ),
    ),
    *in_file(
        "fedrecon/models/dense_networks.py",
        (
            "x = nn.avg_pool(y, (2,) * axes, (2,) * axes)",
            "x = nn.max_pool(y, (2,) * axes, (2,) * axes)",
            _SAME,
        ),
    ),
    *in_file(
        "fedrecon/models/attention.py",
        (
            "pooled = (x.mean(spatial",
            "pooled = (x.min(spatial",
            _CBAM,
        ),
        ("/ jnp.sqrt(query.shape[-1])", "/ jnp.sqrt(channels)", _SAME),
    ),
    *in_file(
        "fedrecon/models/windows.py",
        (
            "places[:, :, None] - places[:, None, :] + window - 1",
            "places[:, None, :] - places[:, :, None] + window - 1",
            _SAME,
        ),
        ("(np.arange(padded) >= padded - shift)", "(np.arange(padded) > padded - shift)", _SAME),
    ),
    *in_file(
        "fedrecon/models/unet.py",
        ("y = x + y", "y = x - y", _LOSSES + "residual_blocks_add_what_they_are_given"),
        ("Upsample(features, factors[level]", "Upsample(features, factors[0]", _PADDED),
        ("zip(*factors[:level], strict=True)", "zip(*factors[:1], strict=True)", _SIZES),
        ("min(features, most) if most", "features if most", _SLICES),
    ),
    *in_file(
        "fedrecon/tasks/segmentation_losses.py",
        ("jnp.where(scored, values, 0).sum(pixels)", "values.sum(pixels)", _ENTROPY),
        (
            "jnp.maximum(-jnp.expm1(log_probabilities), 0) ** focus",
            "jnp.exp(log_probabilities) ** focus",
            _ENTROPY,
        ),
        (
            "distance_transform(mask, spacing) - distance_transform(~mask, spacing)",
            "distance_transform(mask, spacing)",
            _BOUNDARY,
        ),
        ("(reference[..., 1:] > 0) & scored[..., None]", "reference[..., 1:] > 0", _BOUNDARY),
    ),
    *in_file(
        "fedrecon/tasks/segmentation.py",
        (
            'for name in ("image", "segmentation", "distance") if',
            'for name in ("image", "segmentation") if',
            _LOSSES + "distances_of_boundaries_are_computed_once",
        ),
        ("[0.5**level for", "[1.0 for", _LOSSES + "supervision_of_scales_has_halving_weights"),
    ),
    *in_file(
        "fedrecon/tasks/findings.py",
        ("-weights * jax.nn.log_sigmoid(logits)", "-jax.nn.log_sigmoid(logits)", _FINDINGS),
        ("/ jnp.maximum(scored.sum(-1), 1)", "/ scored.shape[-1]", _FINDINGS),
    ),
    *in_file(
        "fedrecon/tasks/overlap.py",
        ("distance <= tolerance", "distance < tolerance", _SURFACES),
        ("place = spacing[axis] *", "place = spacing[-1] *", _SURFACES),
    ),
    *in_file(
        "fedrecon/tasks/patches.py",
        ("jnp.clip(center - jnp.array(patch) // 2, 0, room)", "jnp.clip(center, 0, room)", _CUT),
        ("jax.random.bernoulli(kind, share) & mask.any()", "mask.any()", _CUT),
        ("np.exp(-(place**2) / 2)", "np.exp(-(place**2))", _BLENDED),
        ("jnp.where(shown, jax.random", "jnp.where(True, jax.random", _ALIKE),
        ("found = blend * function(", "found = function(", _BLENDED),
    ),
    *in_file(
        "fedrecon/tasks/configuration.py",
        ("spacing / spacing[able].min() < 2", "spacing / spacing[able].min() < 4", _PUBLISHED),
        ("(3 * width + classes) * count", "(2 * width + classes) * count", _PUBLISHED),
        ("np.where(counts < minimum, 0, counts)", "counts", _RULES + "small_counts_do_not_leave_the_site"),
        ('low = _quantile("spacing", whole.spacing, 0.1)[worst]', "low = spacing[worst]", _COARSE),
        ("seen |= spacing / spacing.min() < 2", "seen = spacing / spacing.min() < 2", _LAWS),
        ("np.where(able, 2, 1)", "np.where(able, 2, 2)", _STRIDES),
        ("np.where(histogram < minimum, 0, histogram)", "histogram[::-1]", _CLIPPED),
    ),
    *in_file(
        "fedrecon/tasks/fingerprints.py",
        (
            'if len(np.unique(examples.get("volume", np.arange(len(labels))))) < minimum:',
            "if len(labels) < minimum:",
            _FEW,
        ),
        ("min(p, n) for p, n in", "p for p, n in", _FEW),
    ),
    *in_file(
        "fedrecon/evaluation/lesions.py",
        (
            "(inside > overlap * sizes)",
            "(inside >= overlap * sizes)",
            _OVERLAP,
        ),
        (
            "ndimage.label(lesions, np.ones((3,) * lesions.ndim))",
            "ndimage.label(lesions)",
            _MATCHED + "corners_join_lesions_and_one_prediction_may_find_two",
        ),
    ),
    *in_file(
        "fedrecon/training/named_tasks.py",
        ("if network not in NETWORKS[task]:", "if False:", _FLAG + "networks_that_do_not_fit_are_refused"),
    ),
    *in_file(
        "experiments/pipeline/federated_data.py",
        (
            'module.path == ("head",)',
            'module.path != ("head",)',
            _SEEN,
        ),
    ),
    *in_file(
        "experiments/pipeline/flamby_cox.py",
        ('side="right") - 1', 'side="left")', _COX + "sums_of_sites_are_those_of_the_partial_likelihood"),
        ("second - mean.T @ mean", "second", _COX + "sums_of_sites_are_those_of_the_partial_likelihood"),
        (
            "fit([site], strength, shared)",
            "fit([site], strength)",
            _COX + "penalized_cox_models_are_the_minimum_over_all_sites",
        ),
        (
            "sums(weights, site).loss - sums(weights, part).loss",
            "sums(weights, part).loss",
            _COX + "penalties_follow_the_signal",
        ),
    ),
)
