"""Mutants of massive training, of semi-supervised separated decoders, and of simulated pairs."""

from tests.mutants.mutant import in_file

_PAN = "tests/federated/test_pan.py::test_"
_SEPARATED = "tests/models/test_separated_unet.py::test_"
_SIMULATORS = "tests/alignment/test_simulators.py::test_"
_SHAPES = "tests/alignment/test_shape_models.py::test_"
_MEMORIZATION = "tests/evaluation/test_memorization.py::test_"
_FEDSIM = "tests/federated/test_fedsim.py::test_"
_MASSIVE = "tests/tasks/test_massive_training.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/tasks/massive_training.py",
        (
            "start = (center // nx, center % nx,",
            "start = (center % nx, center // nx,",
            _MASSIVE + "centers_of_patches_are_the_image",
        ),
        (
            "around = (patch // 2, patch // 2)",
            "around = (patch // 2 + 1, patch // 2 - 1)",
            _MASSIVE + "centers_of_patches_are_the_image",
        ),
        (
            "x = jax.nn.relu(x) @",
            "x = jax.nn.tanh(x) @",
            _MASSIVE + "the_network_at_every_pixel_is_that_of_each_patch",
        ),
        (
            "place = jnp.searchsorted(ranks, chosen + 1)",
            "place = jnp.searchsorted(ranks, chosen)",
            _MASSIVE + "half_of_the_patches_are_of_the_structure",
        ),
        (
            "counted = found & batch",
            "counted = batch",
            _MASSIVE + "patches_that_there_are_not_have_no_part",
        ),
        ("/ (2 * width**2)", "/ width**2", _MASSIVE + "the_teacher_is_the_mask_or_its_likelihood"),
        (
            "+ 1) / _BINS",
            ") / _BINS",
            _MASSIVE + "the_threshold_is_otsus",
        ),
        (
            "names, 0, lax.max, (3, 3)",
            "names, 0, lax.max, (3, 1)",
            _MASSIVE + "the_largest_component_is_that_of_scipy",
        ),
        (
            "count - jnp.argmax(sizes[::-1])",
            "jnp.argmin(sizes)",
            _MASSIVE + "the_largest_component_is_that_of_scipy",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/unlabeled.py",
        ("< part", "> part", _PAN + "hidden_labels_are_a_part_and_always_the_same"),
        (
            '"valid": batch["valid"] & kept,',
            '"valid": batch["valid"],',
            _PAN + "examples_without_labels_are_marked_and_clients_without_any_weigh_less",
        ),
        (
            "known(batches.examples, batches.client) & batches.present",
            "known(batches.examples, batches.client)",
            _PAN + "examples_without_labels_are_marked_and_clients_without_any_weigh_less",
        ),
        ("seen = (sure & unlabeled", "seen = (unlabeled", _PAN + "the_objective_is_that_of_the_equations"),
        (
            "(2 * (own * label).sum(axes) + 1)",
            "(2 * (own * label).sum(axes))",
            _PAN + "the_objective_is_that_of_the_equations",
        ),
        ("label = (p > 0.5)", "label = (p > 0.9)", _PAN + "the_objective_is_that_of_the_equations"),
        ("jnp.minimum(round / rounds, 1)", "round / rounds", _PAN + "the_ramp_rises_to_one_and_stays"),
    ),
    *in_file(
        "fedrecon/federated/methods/pan.py",
        (
            "received = jax.lax.stop_gradient(context.complete(context.received))",
            "received = context.complete(context.received)",
            _PAN + "no_gradient_reaches_the_received_model",
        ),
        (
            "guidance * jnp.where(unlabeled, each, 0)",
            "guidance * jnp.where(True, each, 0)",
            _PAN + "the_objective_is_that_of_the_equations",
        ),
        (
            'image = jnp.where(there, batch["image"], 0)',
            'image = batch["image"]',
            _PAN + "labels_and_padding_have_no_part_in_it",
        ),
        ("message, context: t + 1)", "message, context: t)", _PAN + "rounds_are_counted"),
    ),
    *in_file(
        "fedrecon/models/separated_unet.py",
        (
            "[jnp.zeros_like(z[..., :1]), z]",
            "[jnp.ones_like(z[..., :1]), z]",
            _SEPARATED + "masks_are_disjoint_after_the_likeliest_has_won",
        ),
        (
            "(1 << level,) * axes",
            "(1,) * axes",
            _SEPARATED + "outputs_of_scales_have_one_decoder_each",
        ),
        (
            "if level < _SCALES:",
            "if level <= _SCALES:",
            _SEPARATED + "one_structure_has_one_logit_and_poolings_are_needed",
        ),
    ),
    *in_file(
        "fedrecon/tasks/segmentation_losses.py",
        (
            "against = logits[..., 1:] - logits[..., :1]",
            "against = logits[..., 1:]",
            _SEPARATED + "the_loss_is_dice_and_binary_cross_entropy_of_each_structure",
        ),
    ),
    *in_file(
        "fedrecon/alignment/simulators.py",
        (
            "+ jnp.exp(log_variance) - 1",
            "+ jnp.exp(log_variance)",
            _SIMULATORS + "the_bound_of_shapes_is_that_of_the_definition",
        ),
        (
            "image.std((1, 2), keepdims=True)",
            "image.max((1, 2), keepdims=True)",
            _SIMULATORS + "materials_are_free_of_gain_and_offset_and_have_a_normal_prior",
        ),
        (
            "jnp.where(present, each, 0)",
            "jnp.where(True, each, 0)",
            _SIMULATORS + "materials_are_free_of_gain_and_offset_and_have_a_normal_prior",
        ),
        (
            "jnp.square(score(frozen, made) - 1)",
            "jnp.square(score(frozen, made))",
            _SIMULATORS + "the_game_is_that_of_least_squares",
        ),
        (
            "jnp.square(score(frozen, made) - 1)",
            "jnp.square(score(judge, made) - 1)",
            _SIMULATORS + "each_loss_reaches_its_own_part_alone",
        ),
        (
            "mean, deviation = jax.lax.stop_gradient((",
            "mean, deviation = ((",
            _SIMULATORS + "each_loss_reaches_its_own_part_alone",
        ),
        (
            "labels = jnp.argmax(logits, -1)",
            "labels = jnp.argmin(logits, -1)",
            _SIMULATORS + "labels_are_the_likeliest",
        ),
    ),
    *in_file(
        "fedrecon/alignment/shape_models.py",
        (
            "np.where(mask, 0.5 - inside",
            "np.where(mask, -inside",
            _SHAPES + "distances_are_those_to_the_nearest_pixel_on_the_other_side",
        ),
        (
            "lengths[:kept] / np.sqrt(len(labels) - 1)",
            "lengths[:kept]",
            _SHAPES + "all_modes_give_back_the_shapes_and_few_their_best_subspace",
        ),
        (
            "1 + distances.argmin(1)",
            "distances.argmin(1)",
            _SHAPES + "all_modes_give_back_the_shapes_and_few_their_best_subspace",
        ),
    ),
    *in_file(
        "fedrecon/evaluation/copying.py",
        (
            "(x[p < count] for x, p in",
            "(x[p >= 0] for x, p in",
            _MEMORIZATION + "of_the_larger_kind_as_many_are_drawn",
        ),
        ("here - 0.5 * (here & there)", "here * 1.0", _MEMORIZATION + "of_the_larger_kind_as_many_are_drawn"),
        (
            "(1 + as_large) / (1 + permutations)",
            "1 - as_large / (1 + permutations)",
            _MEMORIZATION + "copies_are_found_and_chance_is_not",
        ),
        (
            "if groups is None else [np.asarray(g)",
            "if True else [np.asarray(g)",
            _MEMORIZATION + "patients_are_drawn_and_change_places_with_all_of_their_images",
        ),
        (
            "np.argsort(rng.permutation(1 + x.max()))[x]",
            "np.arange(len(x))",
            _MEMORIZATION + "of_the_kind_with_more_patients_as_many_are_drawn",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/simulators.py",
        (
            "name not in PRIVATE_PARTS",
            "name in PRIVATE_PARTS",
            _FEDSIM + "shapes_and_materials_are_sent_and_nothing_else",
        ),
        (
            "jnp.where(valid, losses, 0)",
            "jnp.where(True, losses, 0)",
            _FEDSIM + "padding_has_no_part_in_a_simulator",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/fedsim.py",
        ("].shape, 0, samples)", "].shape, 0, 1)", _FEDSIM + "every_pair_is_drawn"),
        (
            'jnp.tile(batch["valid"], 2)',
            'jnp.concatenate([batch["valid"], 0 * batch["valid"] > 0])',
            _FEDSIM + "half_of_what_is_trained_on_is_simulated",
        ),
        (
            "task.loss(params, plain(stats), both, key)",
            "task.loss(params, plain(stats), batch, key)",
            _FEDSIM + "half_of_what_is_trained_on_is_simulated",
        ),
    ),
    *in_file(
        "fedrecon/training/before_rounds.py",
        (
            "return made, drawn, ()",
            "pass",
            "tests/training/test_before_rounds.py::test_another_network_starts_from_itself_alone",
        ),
    ),
)
