"""Mutants of reconstruction and reading as one task."""

from tests.mutants.mutant import in_file

_JOINT = "tests/tasks/test_joint.py::test_"
_PROGRAM = "tests/experiments/test_joint.py::test_"
_IMAGES = "tests/experiments/test_heart_images.py::test_"
_BALANCE = "tests/federated/test_interface_balance.py::test_"

MUTANTS = (
    *in_file(
        "fedrecon/tasks/interface.py",
        (
            "return jnp.where(factor == 0, a, a + (factor * b).astype(a.dtype)), norms",
            "return factor * a + b, norms",
            _JOINT + "the_weight_scales_what_flows_into_the_reconstruction_alone",
        ),
        (
            "return jnp.where(factor == 0, a, a + (factor * b).astype(a.dtype)), norms",
            "return a + ((factor + 1e-3) * b).astype(a.dtype), norms",
            _JOINT + "without_weight_the_reconstruction_has_the_gradient_of_its_own_loss_to_the_bit",
        ),
        (
            "part = jnp.minimum(inner, 0) / jnp.maximum(size, tiny) / jnp.maximum(size, tiny)",
            "part = jnp.minimum(inner, 0) / jnp.maximum(size, tiny)",
            _JOINT + "projected_gradients_never_oppose_the_reconstruction",
        ),
        (
            "return shown / scale[:, None, None]",
            "return shown / jnp.percentile(shown, 99, axis=(1, 2), keepdims=True)",
            _JOINT + "the_scale_of_the_interface_is_that_of_the_measurement",
        ),
        (
            "scale = jax.lax.stop_gradient(jnp.where(measured, own, other))",
            "scale = jax.lax.stop_gradient(own)",
            _JOINT + "the_scale_of_the_interface_is_that_of_the_measurement",
        ),
        (
            "shown = jnp.where(measured[:, None, None], magnitude(images), reference)",
            "shown = magnitude(images)",
            _JOINT + "what_has_no_measurement_or_no_label_trains_its_half_alone",
        ),
        (
            "scaled = jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), gradients)",
            "scaled = jax.tree.map(lambda g: (2 * g * cotangent).astype(g.dtype), gradients)",
            _JOINT + "alone_the_reconstruction_is_trained_as_by_its_own_task",
        ),
    ),
    *in_file(
        "fedrecon/tasks/joint.py",
        (
            'return measured, labeled & batch["valid"]',
            'return measured, batch["valid"]',
            _JOINT + "what_has_no_measurement_or_no_label_trains_its_half_alone",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/interface_balance.py",
        (
            "present = (context.arrived & jnp.asarray(has > 0)).sum()",
            "present = context.arrived.sum()",
            _BALANCE + "all_sites_have_the_balance_of_the_mean_norms",
        ),
        (
            "own = [jnp.asarray(x)[context.batches.client] for x in counts]",
            "own = [jnp.asarray(counts[0])[context.batches.client] for x in counts]",
            _BALANCE + "sites_without_labels_are_left_out_of_the_mean_of_the_reader",
        ),
        (
            "strength = jnp.where(fallen, state.strength / 2, state.strength)",
            "strength = state.strength",
            _BALANCE + "the_weight_is_halved_where_images_get_worse",
        ),
        (
            "return jnp.clip((done / rounds - start) / (full - start), 0, 1)",
            "return jnp.clip(done / rounds, 0, 1)",
            _BALANCE + "all_sites_have_the_balance_of_the_mean_norms",
        ),
        (
            "new = Norms(decay * self.total + (1 - decay) * value, decay * self.weight + (1 - decay))",
            "new = Norms(decay * self.total + value, decay * self.weight + (1 - decay))",
            _BALANCE + "averages_forget_with_the_decay",
        ),
    ),
    *in_file(
        "fedrecon/federated/turn.py",
        (
            "lambda w, leaves: jnp.where(w > 0, 0, nbytes(leaves)), turn.upload.weight, turn.upload.delta",
            "lambda w, leaves: jnp.where(w > 0, 0, 0), turn.upload.weight, turn.upload.delta",
            _BALANCE + "sites_without_labels_are_left_out_of_the_mean_of_the_reader",
        ),
    ),
    *in_file(
        "experiments/pipeline/joint_report.py",
        (
            "kept = [name for name in joint if psnr[name] >= least] or [max(joint, key=psnr.__getitem__)]",
            "kept = joint",
            _PROGRAM + "validation_chooses_among_joint_trainings_that_keep_their_images",
        ),
        (
            'return (a - b) / (best - b) if best > b else float("nan")',
            'return (a - b) / best if best > b else float("nan")',
            _PROGRAM + "the_gap_is_that_of_mean_dice_over_patients",
        ),
        (
            "values = values[:, :, ~np.isnan(values).any((0, 1))]",
            "values = np.nan_to_num(values)",
            _PROGRAM + "the_gap_is_that_of_mean_dice_over_patients",
        ),
        (
            "again = rng.integers(len(seeds), size=len(seeds))",
            "again = np.arange(len(seeds))",
            _PROGRAM + "the_interval_of_the_gap_is_over_seeds_too",
        ),
        (
            'least = max(mean(seeds, name, "psnr", "validation") for name in alone) - ALLOWED',
            'least = mean(seeds, alone[0], "psnr", "validation") - ALLOWED',
            _PROGRAM + "joint_images_are_compared_with_the_longest_training_of_images_alone",
        ),
        (
            "for axis, title in zip(axes[0], columns, strict=True):",
            "for axis, title in zip(axes[-1], columns, strict=True):",
            _PROGRAM + "images_have_the_names_of_their_columns_and_the_masks_that_exist",
        ),
        (
            'shift, score = name.rsplit(", ", 1)',
            'shift, score = name.split(", ", 1)',
            _PROGRAM + "what_was_found_is_told_in_tables_sentences_and_a_page",
        ),
    ),
    *in_file(
        "experiments/pipeline/joint_training.py",
        (
            'tuned = Training("finetune", "finetune", reconstruction="rec_only", reader="oracle")',
            'tuned = Training("finetune", "finetune", reconstruction="rec_only", reader="frozen")',
            _PROGRAM + "trainings_come_after_what_they_start_from",
        ),
        (
            'longer = tuned._replace(name="finetune-more", reconstruction=more.name)',
            'longer = tuned._replace(name="finetune-more")',
            _PROGRAM + "trainings_come_after_what_they_start_from",
        ),
    ),
    *in_file(
        "experiments/pipeline/joint_training.py",
        (
            "weight = _WEIGHT * squared_norm(settings)",
            "weight = _WEIGHT",
            _PROGRAM + "data_steps_of_ct_are_conditioned_as_those_of_mri",
        ),
        (
            "max(math.pi / 2 * settings.image_size / ct_views(settings.acceleration), 1.0)",
            "max(settings.image_size / 2 / ct_views(settings.acceleration), 1.0)",
            _PROGRAM + "data_steps_of_ct_are_conditioned_as_those_of_mri",
        ),
    ),
    *in_file(
        "experiments/pipeline/joint_data.py",
        (
            "healthy = copies // 4",
            "healthy = 0",
            _PROGRAM + "clinical_ct_has_copies_of_which_a_quarter_is_healthy",
        ),
    ),
    *in_file(
        "experiments/pipeline/heart_images.py",
        (
            "np.stack([*pair, np.abs(pair[0] - pair[1])])",
            "np.stack([*pair, pair[0] - pair[1]])",
            _IMAGES + "a_patient_is_seen_by_the_middle_slices_and_what_moves_between_them",
        ),
        (
            "early[len(early) // 2], late[len(late) // 2]",
            "early[0], late[len(late) // 2]",
            _IMAGES + "a_patient_is_seen_by_the_middle_slices_and_what_moves_between_them",
        ),
        (
            "pair = pair / max(np.percentile(pair, 99), 1e-12)",
            "pair = pair * 1.0",
            _IMAGES + "a_patient_is_seen_by_the_middle_slices_and_what_moves_between_them",
        ),
        (
            "logits[:, 1] - logits[:, 0]",
            "logits[:, 0] - logits[:, 1]",
            _IMAGES + "hearts_that_do_not_move_are_found_at_every_site",
        ),
        (
            "return mean(drawn, rng.integers(len(values), size=len(values)))",
            "return mean(drawn, np.arange(len(values)))",
            _IMAGES + "the_area_is_the_mean_over_seeds_with_an_interval_over_seeds_and_patients",
        ),
    ),
    *in_file(
        "experiments/pipeline/heart_groups.py",
        (
            "optimizer = optax.chain(optax.add_decayed_weights(decay), optimizer)",
            "optimizer = optax.chain(optax.add_decayed_weights(0.0), optimizer)",
            _IMAGES + "weights_decay",
        ),
    ),
    *in_file(
        "experiments/pipeline/joint_runs.py",
        (
            'return training.reconstruction if training.mode in ("frozen", "finetune") else training.name',
            "return training.reconstruction or training.name",
            _IMAGES + "readers_have_the_area_of_the_images_they_read",
        ),
        (
            'if training.who == "alone":',
            'if training.who == "nobody":',
            _IMAGES + "readers_have_the_area_of_the_images_they_read",
        ),
    ),
    *in_file(
        "experiments/pipeline/joint_training.py",
        (
            'sites = self.data.train.clients if training.who == "pooled-steps" else 1',
            "sites = 1",
            _PROGRAM + "pooled_data_of_as_many_steps_have_batches_of_all_sites",
        ),
    ),
    *in_file(
        "experiments/pipeline/joint_report.py",
        (
            "(federated, training.name), _share)",
            "(training.name, federated), _share)",
            _PROGRAM + "the_federated_training_is_told_as_a_part_of_its_comparators",
        ),
    ),
)
