"""Mutants of networks, tasks and classical reconstruction."""

from tests.mutants.mutant import in_file

_M = "tests/models/"
_UNROLLED = _M + "test_unrolled.py::test_"
_NORMALIZATION = _M + "test_normalization.py::test_"
_UNET = _M + "test_unet.py::test_"
_K = "tests/tasks/"
_TASKS = _K + "test_tasks.py::test_"
_MODULES = _K + "test_module_task.py::test_"
_QUALITY = _K + "test_image_quality.py::test_"
_OVERLAP = _K + "test_overlap.py::test_"
_DIAGNOSIS = _K + "test_diagnosis.py::test_"
_LABELS = _K + "test_labels.py::test_"

_EXPORTS = "tests/test_exports.py::test_"
_FILES = (
    *in_file(
        "fedrecon/exports.py",
        (
            "with native.portable(), _without_source_files():",
            "with _without_source_files():",
            _EXPORTS + "programs_call_no_native_kernel_and_name_no_file",
        ),
        (
            "jax.config.update(name, 0)",
            "pass",
            _EXPORTS + "programs_call_no_native_kernel_and_name_no_file",
        ),
        (
            "return array.astype(dtype)",
            "return array",
            _EXPORTS + "inputs_of_other_dtypes_are_cast_and_unknown_ones_ignored",
        ),
        (
            "if array.ndim != len(shape) + 1 or array.shape[1:] != shape:",
            "if array.ndim != len(shape) + 1:",
            _EXPORTS + "batches_that_do_not_fit_are_refused",
        ),
        (
            "shutil.rmtree(made, ignore_errors=True)",
            "pass",
            _EXPORTS + "nothing_is_overwritten_and_nothing_half_written",
        ),
        (
            "if found != {name: (x.shape, x.dtype) for name, x in weights.items()}:",
            "if False:",
            _EXPORTS + "damaged_folders_are_refused_by_the_name_of_the_file",
        ),
    ),
    *in_file(
        "fedrecon/weights.py",
        (
            "if group not in groups or not name:",
            "if group not in groups:",
            _EXPORTS + "names_of_other_groups_are_refused",
        ),
        (
            "variables = from_named_arrays({**arrays, **dict.fromkeys(empty, empty_node)})",
            "variables = from_named_arrays(arrays)",
            _EXPORTS + "groups_without_leaves_survive_their_file",
        ),
        (
            "if empty := _empty_groups(variables):",
            "if (empty := _empty_groups(variables)) is not None:",
            _EXPORTS + "groups_without_leaves_survive_their_file",
        ),
    ),
)

_MODELS = (
    *in_file(
        "fedrecon/models/data_steps.py",
        (
            "x - size * inputs.gradient(x)",
            "x + size * inputs.gradient(x)",
            _UNROLLED + "gradient_steps_are_a_loop",
        ),
        (
            "residual = back - A.gram(x)",
            "residual = back",
            _UNROLLED + "proximal_steps_go_from_the_least_squares_solution_to_the_network",
        ),
        (
            "inputs.forward(2 * image - previous)",
            "inputs.forward(image)",
            _UNROLLED + "primal_dual_steps_are_the_iteration_of_chambolle_and_pock",
        ),
        (
            "jnp.where(sampled(A), measured, kspace)",
            "jnp.where(sampled(A), kspace, measured)",
            _UNROLLED + "projections_keep_measured_samples_exactly",
        ),
    ),
    *in_file(
        "fedrecon/models/normalization.py",
        (
            "inverse * _over_groups(scale * bias_gradient, groups) / pixels",
            "inverse * _over_groups(bias_gradient, groups) / pixels",
            _NORMALIZATION + "instance_and_group_norm_equal_flax",
        ),
        (
            "_over_groups(variance + jnp.square(channel_mean - mean), groups)",
            "_over_groups(variance, groups)",
            _NORMALIZATION + "instance_and_group_norm_equal_flax",
        ),
        (
            "if valid is None else valid.astype(x.dtype)",
            "if True else valid.astype(x.dtype)",
            _NORMALIZATION + "batch_norm_does_not_see_padding",
        ),
        (
            "jnp.where(count > 0, 1 - self.momentum, 0.0)",
            "jnp.where(count > 0, self.momentum, 0.0)",
            _NORMALIZATION + "batch_norm_trains_and_evaluates_as_flax",
        ),
    ),
    *in_file(
        "fedrecon/models/regularizers.py",
        (
            'return corrected(new, new if order == "after" else state)',
            "return corrected(new, new)",
            _M + "test_unrolled_reference.py::test_results_equal_the_recorded_ones",
        ),
        (
            "(network((u - mean) / deviation, train, valid) * deviation",
            "(network((u - mean) / deviation, train, valid)",
            _M + "test_varnet.py::test_images_scale_with_their_measurements",
        ),
    ),
    *in_file(
        "fedrecon/models/unrolled.py",
        (
            'split_rngs={"params": not shared}',
            'split_rngs={"params": False}',
            _M + "test_unrolled_reference.py::test_results_equal_the_recorded_ones",
        ),
    ),
    *in_file(
        "fedrecon/models/ista.py",
        (
            "v = v - jnp.clip(v,",
            "v = jnp.clip(v,",
            _UNROLLED + "sparse_transforms_threshold_what_a_convolution_finds",
        ),
    ),
    *in_file(
        "fedrecon/models/unet.py",
        (
            "jnp.concatenate([skips[level], x], -1)",
            "jnp.concatenate([x, x], -1)",
            _M + "test_unrolled_reference.py::test_results_equal_the_recorded_ones",
        ),
        (
            "output = head(x)[:, *crops]",
            "output = head(x)[:, : crops[0].stop, : crops[-1].stop]",
            _UNET + "any_image_size_comes_back",
        ),
    ),
    *in_file(
        "fedrecon/models/transfer.py",
        (
            "long[-len(short) :] == short",
            "long[: len(short)] == short",
            _UNET + "warm_start_matches_suffixes_shapes_and_whole_layers",
        ),
    ),
)

_TASK_PACKAGE = (
    *in_file(
        "fedrecon/tasks/reconstruction.py",
        (
            "jnp.roll(jnp.flip(x, axis), 1 - x.shape[axis] % 2, axis)",
            "jnp.flip(x, axis)",
            "tests/tasks/test_mirrors.py::test_mirrored_kspace_is_that_of_mirrored_images",
        ),
        (
            "batch, key = augment(key, batch), jax.random.fold_in(key, 1)",
            "pass",
            "tests/tasks/test_mirrors.py::test_examples_are_changed_in_training_alone",
        ),
    ),
    *in_file(
        "fedrecon/tasks/reconstruction_losses.py",
        # A loss that forgets the range.
        (
            ".mean((1, 2)) / data_range",
            ".mean((1, 2))",
            _TASKS + "reconstruction_loss_is_relative_to_the_range_of_each_volume",
        ),
        (
            "absolute + ssim_weight * (1 - structure)",
            "absolute + ssim_weight * structure",
            _TASKS + "reconstruction_loss_is_relative_to_the_range_of_each_volume",
        ),
    ),
    *in_file(
        "fedrecon/tasks/segmentation.py",
        (
            "random_flips(key, *(batch[name] for name in names), axis=pixels[-1])",
            '(random_flips(key, batch["image"])[0], *(batch[name] for name in names[1:]))',
            _TASKS + "flips_mirror_training_images_with_their_references",
        ),
    ),
    *in_file(
        "fedrecon/tasks/segmentation_losses.py",
        (
            "p.sum(axes) + s.sum(axes)",
            "p.sum(axes)",
            _TASKS + "segmentation_loss_takes_dice_over_the_batch",
        ),
        (
            "weight = scored[..., None].astype(logits.dtype)",
            "weight = jnp.ones_like(logits[..., :1])",
            _TASKS + "segmentation_loss_takes_dice_over_the_batch",
        ),
    ),
    *in_file(
        "fedrecon/tasks/network.py",
        (
            "jnp.flip(x, axis), x)",
            "jnp.flip(x, 1), x)",
            _TASKS + "flips_mirror_training_images_with_their_references",
        ),
        (
            "/ jnp.maximum(where.sum(), 1)",
            "/ where.size",
            _TASKS + "segmentation_loss_takes_dice_over_the_batch",
        ),
        (
            "some = valid | ~valid.any()",
            "some = valid | True",
            _MODULES + "padding_changes_nothing_for_batch_normalization_and_dropout",
        ),
        (
            '{"params": jax.random.fold_in(key, 1)}',
            '{"params": jax.random.key(1)}',
            _MODULES + "dropout_draws_in_training_alone_and_normalization_is_found",
        ),
    ),
    *in_file(
        "fedrecon/tasks/module.py",
        (
            "jnp.where(valid, jnp.arange(len(valid)), jnp.argmax(valid))",
            "jnp.arange(len(valid))",
            _MODULES + "a_loss_that_divides_by_the_example_has_a_finite_gradient_beside_padding",
        ),
        (
            "(diverged | ~jnp.isnan",
            "(~jnp.isnan",
            _MODULES + "undefined_metrics_are_left_out_and_those_of_a_diverged_network_are_not",
        ),
    ),
    *in_file(
        "fedrecon/tasks/image_quality.py",
        (
            "unbiased = WINDOW**2 / (WINDOW**2 - 1)",
            "unbiased = 1.0",
            _QUALITY + "metrics_equal_skimage_per_volume",
        ),
        ("for k in (0.01, 0.03))", "for k in (0.03, 0.01))", _QUALITY + "metrics_equal_skimage_per_volume"),
        (
            "jnp.square(peak) / mse",
            "peak / mse",
            _QUALITY + "psnr_of_known_noise_and_metrics_of_a_perfect_image",
        ),
        ("jnp.where(valid, values, 0), volume,", "values, volume,", _QUALITY + "padding_does_not_count"),
    ),
    *in_file(
        "fedrecon/tasks/overlap.py",
        (
            "jnp.where(size > 0, 2 * overlap / jnp.maximum(size, 1), 1.0)",
            "jnp.where(size > 0, overlap / jnp.maximum(size, 1), 1.0)",
            _OVERLAP + "dice_of_identical_disjoint_and_empty_masks",
        ),
        ("jnp.maximum(*distances)", "jnp.minimum(*distances)", _OVERLAP + "hd95_equals_scipy"),
        (
            "inside &= jnp.concatenate([edge, head], axis) & jnp.concatenate([tail, edge], axis)",
            "inside &= jnp.concatenate([edge, head], axis)",
            _OVERLAP + "hd95_equals_scipy",
        ),
        (
            "after = lax.cummin(jnp.where(mask, first, jnp.inf), axis=0, reverse=True)",
            "after = lax.cummin(jnp.where(mask, first, jnp.inf), axis=0)",
            _OVERLAP + "distance_transform_equals_scipy",
        ),
    ),
    *in_file(
        "fedrecon/tasks/labels.py",
        # A label below 0 counts as another class.
        (
            "known = (labels >= 0) & (labels < classes)",
            "known = labels < classes",
            _LABELS
            + "labels_are_checked_when_data_enter "
            + _LABELS
            + "labels_that_are_no_class_are_refused_and_never_count_as_another",
        ),
        (
            "scored if ignore is None else scored & (labels != ignore)",
            "scored",
            _LABELS + "an_ignored_label_joins_valid",
        ),
        # A loss that is no number, but trains.
        (
            "poison = (jnp.nan * watched)",
            "poison = jnp.nan + jax.lax.stop_gradient(watched)",
            _LABELS + "a_plain_network_trains_and_its_labels_are_watched",
        ),
    ),
    *in_file(
        "fedrecon/tasks/scores.py",
        (
            "worst = np.inf if lower_is_better(name) else -np.inf",
            "worst = np.nan",
            _LABELS + "what_is_not_finite_is_told_from_nothing_to_score",
        ),
    ),
    *in_file(
        "fedrecon/tasks/diagnosis.py",
        (
            "area = won / jnp.maximum(pairs, 1)",
            "area = won",
            _LABELS + "areas_of_many_classes_are_those_of_scikit_learn",
        ),
        (
            "+ 0.5 * (scores[:, None] == scores)",
            "+ (scores[:, None] == scores)",
            _DIAGNOSIS + "binary_metrics_equal_sklearn_with_ties_and_padding",
        ),
        (
            "detected = scores > jnp.where",
            "detected = scores >= jnp.where",
            _DIAGNOSIS + "binary_metrics_equal_sklearn_with_ties_and_padding",
        ),
        (
            "groups = margin, valid & (label == c), valid & (label != c)",
            "groups = margin, label == c, label != c",
            _DIAGNOSIS + "binary_metrics_equal_sklearn_with_ties_and_padding",
        ),
    ),
)

MUTANTS = _MODELS + _TASK_PACKAGE + _FILES
