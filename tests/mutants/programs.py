"""Mutants of the programs and of what they are made of."""

from tests.mutants.mutant import in_file

_DIAGNOSIS = "tests/experiments/test_diagnosis.py::test_"
_CURVES = "tests/experiments/test_learning_curves.py::test_"
_RECONSTRUCTION = "tests/experiments/test_reconstruction_stage.py::test_"
_PATIENTS = "tests/experiments/test_patient_scores.py::test_"
_PREDICT = "tests/experiments/test_predict.py::test_"
_TRACKING = "tests/test_tracking.py::test_"
_RUN = "tests/training/test_run.py::test_"

MUTANTS = (
    *in_file(
        "experiments/pipeline/unseen_sites.py",
        (
            'sign * (row["in_federation"][m] - row["external"][m])',
            'row["in_federation"][m] - row["external"][m]',
            "tests/experiments/test_leave_one_site_out.py::test_figures_are_drops_and_the_worst_site",
        ),
        (
            "test=select_clients(data.test, rest),",
            "test=data.test,",
            "tests/experiments/test_leave_one_site_out.py::test_other_sites_are_what_is_left",
        ),
    ),
    *in_file(
        "experiments/pipeline/settings.py",
        # Flags of measured data change nothing in simulated cohorts, without a word.
        (
            "check_needs(settings, base)",
            "pass",
            "tests/experiments/test_settings.py::test_values_out_of_range_name_the_flag",
        ),
    ),
    *in_file(
        "fedrecon/data/folders/preparation.py",
        (
            "inside = values[:, top : top + size[0], left : left + size[1]]",
            "inside = values",
            f"{_PREDICT}images_are_prepared_as_in_training_and_masks_come_back",
        ),
    ),
    *in_file(
        "fedrecon/data/folders/division.py",
        (
            "kept = np.arange(bounds[number], bounds[number + 1])",
            "kept = np.arange(bounds[number], bounds[-1])",
            "tests/data/test_folders.py::test_slices_of_one_patient_are_divided_without_any_in_two_parts",
        ),
    ),
    *in_file(
        "experiments/pipeline/prediction.py",
        (
            "np.max(probabilities) <= 1 + _ROUNDING",
            "np.max(probabilities) <= 100",
            f"{_PREDICT}logits_and_masks_of_one_name_are_refused",
        ),
        (
            "prediction.probabilities[..., 1] > predictor.threshold",
            "prediction.probabilities[..., 0] > predictor.threshold",
            f"{_PREDICT}nifti_gets_a_mask_in_its_place",
        ),
        (
            "if predictor.reference is not None:",
            "if False:",
            f"{_PREDICT}images_unlike_those_of_validation_are_called_so",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/dicom_segmentation.py",
        (
            'return [headers[i] for i in np.argsort(along, kind="stable")]',
            "return headers[::-1]",
            f"{_PREDICT}a_dicom_series_gets_a_segmentation_that_refers_to_it",
        ),
    ),
    *in_file(
        "experiments/export.py",
        (
            'found[metric] = {"mean": mean, "low": mean - half',
            'found[metric] = {"mean": mean, "low": mean',
            "tests/experiments/test_export.py::test_scores_over_sites_have_intervals",
        ),
    ),
    *in_file(
        "fedrecon/learned.py",
        (
            "return ood.image_statistics((magnitudes / deviation)[..., None])",
            "return ood.image_statistics(magnitudes[..., None])",
            "tests/test_learned.py::test_images_that_look_unlike_those_of_validation_are_strange_in_any_unit",
        ),
    ),
    *in_file(
        "fedrecon/ood.py",
        (
            "part = min(1.0, features / count)",
            "part = 0.0",
            "tests/test_ood.py::test_distances_are_those_of_mahalanobis_with_a_shrunk_covariance",
        ),
        (
            "rows = np.flatnonzero(data.valid[index])",
            "rows = np.arange(data.valid.shape[1])",
            "tests/test_ood.py::test_padding_is_not_looked_at_and_all_clients_are",
        ),
        (
            "whitening = vectors / np.sqrt(np.maximum(values, 1e-6))",
            "whitening = vectors / np.sqrt(np.maximum(values, 1e-30))",
            "tests/test_ood.py::test_what_is_constant_in_training_has_a_floor_and_few_images_do",
        ),
    ),
    *in_file(
        "fedrecon/tracking.py",
        (
            "if key not in known:",
            "if True:",
            f"{_TRACKING}following_hands_on_every_record_once_until_the_results_are_there",
        ),
        (
            "writer.add_scalar(name, value, step)",
            "writer.add_scalar(name, value, 0)",
            f"{_TRACKING}tensorboard_gets_scalars_settings_and_figures",
        ),
        (
            'if key not in ("stage", "round"):',
            'if key != "stage":',
            f"{_TRACKING}numbers_have_names_of_stage_site_and_metric",
        ),
    ),
    *in_file(
        "experiments/pipeline/patient_scores.py",
        (
            'batch["volume"] = np.where(valid, batch["volume"], np.iinfo(np.int32).max)',
            'batch["volume"] = np.where(valid, batch["volume"], -1)',
            f"{_PATIENTS}each_patient_has_scores_of_the_whole_volume_and_blank_ones_none",
        ),
        (
            "worst = int(np.nanargmin(values))",
            "worst = int(np.nanargmax(values))",
            f"{_PATIENTS}the_worst_patient_of_each_site_is_shown_where_its_error_is_largest",
        ),
        (
            "example = int(chosen[np.argmax(error)])",
            "example = int(chosen[0])",
            f"{_PATIENTS}the_worst_patient_of_each_site_is_shown_where_its_error_is_largest",
        ),
    ),
    *in_file(
        "fedrecon/data/clients/arrays.py",
        (
            "np.searchsorted(classes, ",
            "np.searchsorted(classes[::-1], ",
            _RUN + "labels_that_are_texts_are_numbered_over_all_hospitals",
        ),
        (
            "    if not finite.all():",
            "    if False:",
            _RUN + "what_does_not_fit_is_refused_in_one_line_and_leaves_nothing",
        ),
        ("whose[chosen]", "whose", _RUN + "arrays_are_divided_by_patient"),
    ),
    *in_file(
        "experiments/pipeline/run.py",
        (
            "if asked > (most := max(clients.values())):",
            "if asked > 10 * (most := max(clients.values())):",
            "tests/experiments/test_stack.py::test_more_clients_a_round_than_any_stage_has_are_refused",
        ),
    ),
    *in_file(
        "experiments/pipeline/examples.py",
        # One model for all clients.
        (
            "key=lambda place: id(models[place[0]])",
            "key=lambda place: 0",
            _RECONSTRUCTION + "every_valid_example_is_seen_by_the_model_of_its_client",
        ),
        # Filling of the last chunk is kept.
        (
            "np.asarray(x)[:count]",
            "np.asarray(x)",
            _RECONSTRUCTION + "every_valid_example_is_seen_by_the_model_of_its_client",
        ),
        (
            "np.cumsum(np.sum(data.valid, 1))",
            "np.cumsum(np.sum(data.valid, 0))",
            _RECONSTRUCTION + "signs_are_told_by_client",
        ),
    ),
    *in_file(
        "experiments/pipeline/reconstruction.py",
        (
            "predict([model] * data.clients, data)",
            "predict(list(models), data)",
            _RECONSTRUCTION + "every_network_is_scored_at_home_and_elsewhere",
        ),
        # Only larger weights are tried.
        (
            "max((best - 1, best + 1), key=at)",
            "max((best, best + 1), key=at)",
            _RECONSTRUCTION + "the_best_weight_is_found_by_climbing",
        ),
    ),
    *in_file(
        "experiments/pipeline/programs.py",
        (
            'return len(recorded["devices"])',
            "return 1",
            _RECONSTRUCTION + "a_run_resumes_on_as_many_devices_as_it_began_with",
        ),
    ),
    *in_file(
        "experiments/pipeline/diagnosis.py",
        (
            "called = test.probability > np.asarray(thresholds)[test.site]",
            "called = test.probability > np.asarray(thresholds)[0]",
            _DIAGNOSIS + "classification_counts_pairs_within_sites_and_says_nothing_of_few",
        ),
        (
            "_LEAST = 5",
            "_LEAST = 1",
            _DIAGNOSIS + "classification_counts_pairs_within_sites_and_says_nothing_of_few",
        ),
    ),
    *in_file(
        "experiments/pipeline/stages.py",
        (
            'if kind == "centralized":',
            'if kind != "federated":',
            _CURVES + "only_pooled_data_take_the_rate_and_the_epochs_of_their_own",
        ),
        (
            "epochs=self.settings.pooled_epochs or budget.epochs",
            "epochs=budget.epochs",
            _CURVES + "only_pooled_data_take_the_rate_and_the_epochs_of_their_own",
        ),
    ),
    *in_file(
        "experiments/pipeline/network_reconstruction.py",
        (
            "if network.physics != physics:",
            "if False:",
            "tests/experiments/test_reconstruct_network.py::test_what_a_network_cannot_take_is_refused_by_name",
        ),
        (
            'trust it" if found else',
            'trust it" if not found else',
            "tests/experiments/test_reconstruct_network.py::test_a_measurement_unlike_those_of_training_is_told",
        ),
    ),
)
