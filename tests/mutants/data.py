"""Mutants of data: formats of files, clients, simulation, measured cohorts."""

from tests.mutants.mutant import in_file

_D = "tests/data/"
_CLIENTS = _D + "test_clients.py::test_"
_PARTITION = _D + "test_partition.py::test_"
_FILES = _D + "test_cohort_files.py::test_"
_MRI = _D + "test_mri_simulation.py::test_"
_CT = _D + "test_ct_simulation.py::test_"
_MEASURED = _D + "test_measured.py::test_"
_CLINICAL = _D + "test_clinical_ct.py::test_"
_FOLDER = _D + "test_folders.py::test_"
_BROKEN = _D + "test_broken_cohorts.py::test_"
_RAW = _D + "test_raw_cohorts.py::test_"
_SINOGRAMS = _D + "test_ct_cohorts.py::test_"

_CLIENT_DATA = (
    *in_file(
        "fedrecon/data/clients/client_data.py",
        (
            "np.arange(max(counts)) < np.asarray(counts)[:, None]",
            "np.arange(max(counts)) <= np.asarray(counts)[:, None]",
            _CLIENTS + "stacking_keeps_every_example_and_pads_with_zeros",
        ),
        (
            "np.concatenate([[0], np.cumsum(used)[:-1]])",
            "np.zeros(len(used), int)",
            _CLIENTS + "pooling_holds_the_same_examples_and_separates_volumes",
        ),
        (
            "part[index] = parts[patients[index]]",
            "part[index] = index % len(counts)",
            _CLIENTS + "split_is_a_partition_without_shared_patients",
        ),
        (
            "members = sorted(set(patients[site_names == site]))",
            "members = list(dict.fromkeys(patients[site_names == site]))",
            _CLIENTS + "split_does_not_depend_on_example_order_or_other_sites",
        ),
    ),
    *in_file(
        "fedrecon/data/clients/examples.py",
        (
            '"target": np.asarray(target, np.float32) / scale',
            '"target": np.asarray(target, np.float32)',
            _MRI + "normalization_comes_from_the_measurement_and_is_undone_by_scale",
        ),
        (
            "math.sqrt(math.prod(image.shape[-2:]) / (ny * nx))",
            "math.prod(image.shape[-2:]) / (ny * nx)",
            _MRI + "images_come_back_to_the_scanners_matrix_and_unit",
        ),
        (
            "start = max(old // 2 - new // 2, 0)",
            "start = max((old - new) // 2, 0)",
            _MRI + "padding_kspace_is_undone_exactly",
        ),
    ),
    *in_file(
        "fedrecon/data/clients/partition.py",
        (
            "np.arange(1, clients + 1, dtype=float) ** -exponent",
            "np.arange(1, clients + 1, dtype=float) ** exponent",
            _PARTITION + "sizes_follow_the_power_law",
        ),
        (
            "edges = np.cumsum(shares)[:-1] / shares.sum()",
            "edges = np.cumsum(shares)[:-1]",
            _PARTITION + "sizes_follow_the_power_law",
        ),
        (
            "np.log1p(-rng.uniform(size=parameters.shape)) / parameters",
            "np.log1p(-rng.uniform(size=parameters.shape))",
            _PARTITION + "shares_have_the_moments_of_a_dirichlet",
        ),
        ("held.min() < self.minimum", "held.max() < self.minimum", _PARTITION + "the_minimum_is_kept"),
    ),
    *in_file(
        "fedrecon/data/clients/feature_shift.py",
        (
            "np.exp(-2 * (np.pi * shift.blur) ** 2",
            "np.exp(-((np.pi * shift.blur) ** 2)",
            _PARTITION + "each_part_of_a_shift_does_what_it_says",
        ),
    ),
)

_SIMULATION = (
    *in_file(
        "fedrecon/data/simulation/mri.py",
        (
            "abs(1 - 2 * np.exp(-site.inversion_time / t1)",
            "abs(1 - np.exp(-site.inversion_time / t1)",
            _MRI + "contrasts_are_those_of_the_sequences",
        ),
        (
            "reference / jnp.sqrt(averages)",
            "reference / averages",
            _MRI + "the_reference_has_the_noise_of_many_averages",
        ),
        (
            "signal / site.snr, float(",
            "signal / site.snr**2, float(",
            _MRI + "noise_is_white_complex_gaussian_of_the_stated_size",
        ),
        (
            "(sigma * present * jax.lax.complex",
            "(sigma * jax.lax.complex",
            _MRI + "unmeasured_samples_and_padded_coils_are_zero",
        ),
        (
            "rz**2 + 25.0) ** -1.5",
            "rz**2 + 25.0) ** -1.0",
            _MRI + "coil_fields_follow_the_field_of_a_loop_on_its_axis",
        ),
    ),
    *in_file(
        "fedrecon/data/simulation/ct.py",
        (
            "counts = rng.poisson(photons) + rng.normal(0, site.electronic_noise",
            "counts = rng.poisson(photons) + rng.normal(0, site.electronic_noise**2",
            _CT + "noise_is_that_of_the_photon_counts",
        ),
        (
            "/ site.photons) / unit",
            "/ site.photons)",
            _CT + "filtered_back_projection_finds_the_attenuation_of_the_target",
        ),
        ("np.maximum(counts, 1) / site.photons", "counts / site.photons", _CT + "starved_rays_stay_finite"),
        (
            "np.pi * np.arange(site.views) / site.views",
            "2 * np.pi * np.arange(site.views) / site.views",
            _CT + "padded_views_are_zero_and_the_others_span_half_a_turn",
        ),
    ),
    *in_file(
        "fedrecon/data/simulation/planning.py",
        (
            "np.linspace(1 + skew, 1 - skew, sites)",
            "np.linspace(1 + skew, 1, sites)",
            _MRI + "size_skew_is_realized_and_keeps_the_total",
        ),
        ("0.5 + skew * spread[order]", "0.5 + spread[order]", _MRI + "label_skew_is_realized"),
    ),
    *in_file(
        "fedrecon/data/simulation/cohort_files.py",
        (
            'has != {"test"}',
            "not has",
            "tests/data/test_cohort_files.py::test_faults_of_a_folder_name_the_file",
        ),
        (
            "seed, (0.0, 0.0, 1.0)))",
            "seed, fractions))",
            "tests/data/test_cohort_files.py::test_a_folder_holds_the_hospital_that_takes_no_part",
        ),
        (
            "coils = max(site.coils for site in manifest.sites)",
            "coils = site.coils",
            "tests/data/test_cohort_files.py::test_a_folder_holds_the_hospital_that_takes_no_part",
        ),
        # Coils and noise are not those of the cohort in memory.
        (
            "coils = max(site.coils for site in sites)",
            "coils = None",
            _FILES + "a_folder_holds_the_cohort_of_the_same_arguments",
        ),
        ("sorted(found - named)", "()", _FILES + "faults_of_a_folder_name_the_file"),
        (
            "if _labels(volume) != list(member.labels):",
            "if False:",
            _FILES + "faults_of_a_folder_name_the_file",
        ),
        (
            "if (digest := _sha256(path)) != member.sha256:",
            "if False:",
            _FILES + "faults_of_a_folder_name_the_file",
        ),
    ),
)

_MEASURED_DATA = (
    *in_file(
        "fedrecon/data/measured/ct.py",
        (
            "start += counts[index] + gap",
            "start += counts[index]",
            _CLINICAL + "blocks_of_a_body_are_disjoint_and_a_gap_apart",
        ),
        (
            "np.maximum(1 + hounsfield / 1000, 0)",
            "1 + hounsfield / 1000",
            _CLINICAL + "measured_again_images_keep_their_units_and_spheres_their_ct_number",
        ),
        (
            "total * (SPHERE_HU - image)",
            "total * SPHERE_HU",
            _CLINICAL + "measured_again_images_keep_their_units_and_spheres_their_ct_number",
        ),
        (
            "if spacings[0][0] != spacings[0][1]:",
            "if False:",
            _CLINICAL + "files_without_spacings_are_refused_by_name",
        ),
        (
            "copy < copies - healthy)",
            "copy < copies)",
            _CLINICAL + "copies_are_the_same_slices_with_other_spheres_and_the_last_ones_have_none",
        ),
        (
            "if not 0 <= healthy < copies:",
            "if not 0 <= healthy <= copies:",
            _CLINICAL + "sizes_out_of_range_are_refused",
        ),
    ),
    *in_file(
        "fedrecon/data/measured/images.py",
        (
            "(area > manifest.area)",
            "(area >= 0)",
            _MEASURED + "retina_keeps_patients_together_and_averages_areas",
        ),
        (
            "numbers[site] < minimum_patients",
            "numbers[site] <= minimum_patients",
            _MEASURED + "chest_radiographs_merge_small_sites",
        ),
        (
            'patients = [f"{site}/{patient}"',
            'patients = [f"{patient}"',
            _D + "test_manifests.py::test_a_cohort_of_images_is_read_as_its_manifest_says",
        ),
    ),
    *in_file(
        "fedrecon/data/measured/mri.py",
        (
            "if volume.mask is not None and not volume.mask.all():",
            "if volume.mask is not None and not volume.mask.any():",
            _MEASURED + "undersampled_files_cannot_be_a_reference",
        ),
    ),
    *in_file(
        "fedrecon/data/clients/undersampling.py",
        (
            "common = resize_kspace(padded, matrix)",
            "common = padded[..., : matrix[0], : matrix[1]]",
            _MEASURED + "a_smaller_grid_is_taken_only_when_asked_for_and_crops_kspace",
        ),
    ),
)

_FOLDERS = (
    *in_file(
        "fedrecon/data/folders/images.py",
        (
            "low = np.maximum(edges[:-1, None], np.arange(old))",
            "low = np.floor(np.maximum(edges[:-1, None], np.arange(old)) / 2) * 2",
            _FOLDER + "pictures_and_masks_are_scaled_by_area_into_one_frame",
        ),
        (
            "parts.sum(0) > area",
            "parts.max(0) > area",
            _FOLDER + "masks_of_several_structures_are_named_by_the_manifest",
        ),
        (
            "before = [(m - n) // 2 for",
            "before = [(m - n) // 3 for",
            _FOLDER + "pictures_and_masks_are_scaled_by_area_into_one_frame",
        ),
    ),
    *in_file(
        "fedrecon/data/folders/files.py",
        (
            "patient=row.patient if row.file and row.patient else item.patient,",
            "patient=row.patient or item.patient,",
            _FOLDER + "labels_become_classes_in_their_order",
        ),
        (
            "return folders[0] if folders else stem_of(path)",
            "return stem_of(path)",
            _FOLDER + "files_of_a_patient_stay_together_and_parts_may_be_named",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/pictures.py",
        (
            "values.transpose(2, 1, 0)[:, ::-1, ::-1]",
            "values.transpose(2, 1, 0)",
            _FOLDER + "slices_of_nifti_lie_as_in_the_scanner",
        ),
    ),
)

_OFF_GRID = (
    *in_file(
        "fedrecon/data/folders/gridding.py",
        (
            "starts = [n // 2 - kept // 2 for",
            "starts = [n // 2 - (kept - 1) // 2 for",
            _RAW + "spokes_and_lines_of_both_directions_become_the_kspace_of_their_images",
        ),
        (
            "gram = fourier.toeplitz(density)",
            "gram = fourier.toeplitz()",
            _RAW + "spokes_and_lines_of_both_directions_become_the_kspace_of_their_images",
        ),
        (
            "_REACH = 0.75",
            "_REACH = 0.4",
            _RAW + "spokes_and_lines_of_both_directions_become_the_kspace_of_their_images",
        ),
    ),
    *in_file(
        "fedrecon/data/folders/sinograms.py",
        (
            "offset = (rays.axis_offset + (count - kept) / 2) / factor",
            "offset = rays.axis_offset / factor",
            _SINOGRAMS + "rays_of_a_fan_become_those_of_parallel_beams",
        ),
        (
            "view = np.mod(theta[:, None] + turn + sign * angle, 2 * np.pi)",
            "view = np.mod(theta[:, None] + turn - sign * angle, 2 * np.pi)",
            _SINOGRAMS + "rays_of_a_fan_become_those_of_parallel_beams",
        ),
    ),
    *in_file(
        "fedrecon/data/folders/loading.py",
        (
            "if first.path != item.path:",
            "if first is not item:",
            _RAW + "all_images_of_an_echo_planar_file_are_of_its_patient",
        ),
    ),
)

_CHECKED = (
    *in_file(
        "fedrecon/data/folders/cohort.py",
        (
            'count = len(manifest.structures or ("",))',
            "count = 1",
            _FOLDER + "masks_of_several_structures_are_named_by_the_manifest",
        ),
        (
            "if name in loaded.unseen:",
            "if not name:",
            _FOLDER + "an_unseen_site_is_for_the_test_alone",
        ),
    ),
    *in_file(
        "fedrecon/data/folders/loading.py",
        (
            "(site := seen.setdefault(volume.patient, volume.site)) != volume.site:",
            "(site := seen.setdefault(volume.patient, volume.site)) is None:",
            _BROKEN + "a_faulty_cohort_is_refused_by_the_name_of_its_file",
        ),
    ),
    *in_file(
        "fedrecon/data/folders/division.py",
        (
            "if len(names) < len(PARTS):",
            "if len(names) < 2:",
            _BROKEN + "a_faulty_cohort_is_refused_by_the_name_of_its_file",
        ),
    ),
    *in_file(
        "fedrecon/data/folders/survey.py",
        (
            "if volume.segmentation is not None and not volume.segmentation.any()",
            "if volume.segmentation is not None and not volume.segmentation.all()",
            _D + "test_check_cohort.py::test_odd_files_and_sites_are_named",
        ),
    ),
    *in_file(
        "fedrecon/runtime/workdir.py",
        (
            "if self._made:",
            "if not self._made:",
            "tests/runtime/test_runtime.py::test_a_run_that_ends_before_it_begins_leaves_no_trace",
        ),
    ),
)

MUTANTS = _CLIENT_DATA + _SIMULATION + _MEASURED_DATA + _FOLDERS + _OFF_GRID + _CHECKED
