"""Mutants of the survey's applications."""

from tests.mutants.mutant import in_file

_FEDVSS = "tests/federated/test_fedvss.py::test_"
_COUNTS = "tests/federated/test_label_counts.py::test_"
_ROTH = "tests/federated/test_roth.py::test_"
_BEST = _ROTH + "clients_keep_the_round_with_the_best_score"
_CROSS = "tests/evaluation/test_cross_site.py::test_"
_KAPPA = "tests/tasks/test_further_metrics.py::test_kappa_is_that_of_the_definition"
_DENSITIES = "tests/experiments/test_drawn_images.py::test_densities_are_of_their_classes"
_SLIDES = "tests/data/test_histology.py::test_"
_TILES = _SLIDES + "each_pixel_of_tissue_is_in_one_tile_and_background_in_none"
_BANERJEE = "tests/federated/test_banerjee.py::test_"
_CAM = "tests/tasks/test_grad_cam.py::test_of_a_linear_layer_it_is_the_class_activation_map"
_NEW_HEAD = "tests/training/test_initial.py::test_a_new_head_is_drawn_and_the_rest_is_the_model_s"
_VALID = _COUNTS + "counts_are_those_of_valid_labels"
_OBJECTIVE = _FEDVSS + "the_objective_is_that_of_the_equations"
MUTANTS = (
    *in_file(
        "fedrecon/federated/methods/fedvss.py",
        ("image + radius * _unit(jax.grad(away)(probe * start), start)",
         "image + radius * jax.grad(away)(probe * start)", _FEDVSS + "samples_lie_at_their_radii"),
        ("jnp.where(length > 0.5, x / jnp.maximum(length, 0.5), otherwise)", "x / jnp.maximum(length, 0.5)",
         _FEDVSS + "samples_lie_at_their_radii"),
        ("image - radius * _unit", "image + radius * _unit",
         _FEDVSS + "the_received_model_is_surer_of_its_samples"),
        ("jax.grad(away)(probe * start)", "start",
         _FEDVSS + "predictions_change_more_than_in_a_random_direction"),
        ("most_certain(task, received,", "most_certain(task, still,", _OBJECTIVE),
        ("before = log_of(task.predict(*still, batch))", "before = log_of(task.predict(*own, batch))",
         _FEDVSS + "the_client_s_first_predictions_have_no_gradient"),
        ("jax.lax.stop_gradient((own, received))", "(own, received)",
         _FEDVSS + "no_gradient_reaches_the_received_model"),
        ("smoothness * divergence(before, after)", "divergence(before, after)", _OBJECTIVE),
        ("alignment * _entropies", "_entropies", _OBJECTIVE),
        ("jnp.where(valid, each, 0).sum() / jnp.maximum(valid.sum(), 1)", "each.mean()", _OBJECTIVE),
        ("if not smoothness and not alignment", "if not smoothness",
         _FEDVSS + "one_of_the_weights_is_enough"),
    ),
    *in_file(
        "fedrecon/federated/methods/label_counts.py",
        ("    known &= valid[:, None]", "    known &= True", _VALID),
        ("((label == 1) & known)", "(label == 1)", _VALID),
        ("(label == 0) | (label == 1)", "label < 2", _VALID),
        ("jnp.uint32(4 * counts.size)", "jnp.uint32(counts.size)", _COUNTS + "counts_are_exchanged_once"),
        ('if prior == "global" and counts is not None', "if counts is not None", _COUNTS +
         "steps_of_wei_are_those_of_the_weighted_loss"),
        ('return {**batch, "weight": weigh(batch["label"], memory)}', "return batch", _COUNTS +
         "steps_of_priya_are_those_of_the_weighted_loss"),
    ),
    *in_file(
        "fedrecon/federated/methods/wei.py",
        ("jnp.maximum((there > 0).sum() * there, 1)", "jnp.maximum(len(there) * there, 1)",
         _COUNTS + "classes_weigh_alike"),
        ("there.sum() /", "1.0 /", _COUNTS + "classes_weigh_alike"),
    ),
    *in_file(
        "fedrecon/federated/methods/priya.py",
        ("jnp.where(label == 1, 1 - part, part)", "jnp.where(label == 1, part, 1 - part)",
         _COUNTS + "positives_weigh_as_much_as_negatives"),
        ("counts if label.ndim == 2 else counts[:, -1]", "counts if label.ndim == 2 else counts[:, 0]",
         _COUNTS + "positives_weigh_as_much_as_negatives"),
    ),
    *in_file(
        "fedrecon/data/clients/tiles.py",
        ("shown.any((1, 2))", "shown.all((1, 2))", _TILES),
        ("x.swapaxes(1, 2)", "x.swapaxes(0, 2)", _TILES),
        ("-(-size // edge) for size in tissue.shape", "size // edge for size in tissue.shape", _TILES),
        ("size in shape], np.nan)", "size in shape], 0.0)",
         _SLIDES + "probabilities_of_tiles_are_a_map_of_the_slide"),
    ),
    *in_file(
        "fedrecon/data/simulation/histology.py",
        ("inside.std(0)", "inside.std()", _SLIDES + "stains_are_normalized_by_slide"),
        ("0.9 * small", "0.0 * small", _SLIDES + "sites_differ_in_stain_and_lymphocytes_are_dark"),
        ("rng.uniform(-shift, shift, (2, 3)) / 3", "np.zeros((2, 3))",
         _SLIDES + "sites_differ_in_stain_and_lymphocytes_are_dark"),
    ),
    *in_file(
        "fedrecon/federated/methods/banerjee.py",
        ("keep_optimizer=keep_momentum", "keep_optimizer=False", _BANERJEE + "rounds_are_those_of_momentum"),
        ("optax.sgd(learning_rate, momentum)", "optax.sgd(learning_rate, momentum, nesterov=True)",
         _BANERJEE + "rounds_are_those_of_momentum"),
    ),
    *in_file(
        "fedrecon/tasks/activation_maps.py",
        ("gradient.mean((1, 2), keepdims=True)", "gradient.sum((1, 2), keepdims=True)", _CAM),
        ("jax.nn.relu((weights * output).sum(-1))", "(weights * output).sum(-1)", _CAM),
        ("found[0][-1] if", "found[0][0] if", _CAM),
        ("label[:, None], axis=1", "0 * label[:, None], axis=1", _CAM),
    ),
    *in_file(
        "fedrecon/training/initial.py",
        ("if settings.new_head:", "if False:", _NEW_HEAD),
        ("for name, x in drawn.items() if name == _HEAD", "for name, x in drawn.items()", _NEW_HEAD),
    ),
    *in_file(
        "fedrecon/federated/methods/roth.py",
        ("jnp.where(result.weight > 0, context.steps, 0)", "context.steps",
         _ROTH + "models_are_averaged_by_iterations"),
        ('score > kept["score"]', 'score >= kept["score"]', _BEST),
        ("(unscored | (score", "(False | (score", _BEST),
        ("jnp.isfinite(score)", "True", _BEST),
        ("select(better, new, kept)", "select(better | True, new, kept)", _BEST),
        ("context.batches.judged",
         '{**context.batches.examples, "valid": context.batches.present}',
         _ROTH + "scores_are_of_the_trained_model_on_the_validation_split"),
    ),
    *in_file(
        "fedrecon/evaluation/sites.py",
        ("_mean(scores[~diagonal])", "_mean(scores)", _CROSS + "the_matrix_is_of_models_and_sites"),
        ("kappa(p, y, weights)", "kappa(p, y)", _CROSS + "the_matrix_is_of_models_and_sites"),
        ("scores[~np.isnan(scores)]", "scores", _CROSS + "what_cannot_be_scored_is_left_out"),
    ),
    *in_file(
        "experiments/pipeline/drawn_images.py",
        ("1 - part[number]", "part[number]", _DENSITIES),
    ),
    *in_file(
        "fedrecon/tasks/further_metrics.py",
        ("jnp.abs(number[:, None] - number)", "(number[:, None] != number)", _KAPPA),
        ("said.sum(0) @ distance @ true.sum(0)", "said.sum(0) @ distance @ said.sum(0)", _KAPPA),
        ("jnp.where(known, expected - observed, jnp.nan)", "expected - observed", _KAPPA),
        ("both = 2.0 *", "both = 1.0 *",
         "tests/tasks/test_further_metrics.py::test_scores_of_classes_are_those_of_pairs_and_counts"),
        ("valid & (label != c)", "label != c",
         "tests/tasks/test_further_metrics.py::test_scores_of_classes_are_those_of_pairs_and_counts"),
    ),
    *in_file(
        "fedrecon/tasks/findings.py",
        ('each * batch.get("weight", 1)', "each",
         "tests/tasks/test_further_metrics.py::test_losses_are_multiplied_by_weights"),
    ),
    *in_file(
        "fedrecon/tasks/classification.py",
        (' * batch.get("weight", 1)', "",
         "tests/tasks/test_further_metrics.py::test_losses_are_multiplied_by_weights"),
    ),
    *in_file(
        "fedrecon/data/measured/images.py",
        ("members if manifest.several else members.argmax(1)", "members.argmax(1)",
         "tests/data/test_manifests.py::test_texts_of_a_file_are_classes_or_findings"),
        ("not manifest.several and (unknown", "(unknown",
         "tests/data/test_manifests.py::test_texts_of_a_file_are_classes_or_findings"),
    ),
)  # fmt: skip
