"""Mutants of the readers and writers of files."""

from tests.mutants.mutant import in_file

_D = "tests/data/"
_ISMRMRD = _D + "test_ismrmrd_files.py::test_"
_GEOMETRY = _D + "test_raw_geometry.py::test_"
_EPI = _D + "test_echo_planar_files.py::test_"
_TWIX = _D + "test_twix.py::test_"
_BART = _D + "test_bart.py::test_"
_CT_FILES = _D + "test_ct_files.py::test_"
_PLACED = _D + "test_placed_images.py::test_"
_TOMOGRAPHY = "tests/test_tomography.py::test_"
_DICOM = _D + "test_dicom_series.py::test_"
_FASTMRI = _D + "test_fastmri.py::test_"
_MEASUREMENT = _D + "test_measurement.py::test_"

MUTANTS = (
    *in_file(
        "fedrecon/data/formats/lines.py",
        # The center of k-space.
        (
            "index = step - center + n // 2",
            "index = step",
            _ISMRMRD + "lines_go_where_counters_and_limits_put_them",
        ),
        (
            "else self.readout // 2 - center",
            "else 0",
            _ISMRMRD + "a_short_readout_has_its_center_in_the_middle",
        ),
        (
            "center = samples - 1 - line.center if line.reversed else line.center",
            "center = line.center",
            _GEOMETRY + "random_scans_are_read_as_the_standard_says",
        ),
        # Axes.
        (
            "return self.slices.index(line.slice), place[1], place[0]",
            "return self.slices.index(line.slice), place[0], place[1]",
            _ISMRMRD + "cartesian_arrays_come_back",
        ),
        (
            "trajectory = trajectory[..., [2, 0, 1]]",
            "trajectory = trajectory[..., [2, 1, 0]]",
            _ISMRMRD + "spokes_and_their_trajectory_come_back",
        ),
        (
            "kspace /= np.maximum(count, 1)[:, :, :, None]",
            "kspace /= np.maximum(count.max(), 1)",
            _ISMRMRD + "repeated_lines_are_averaged",
        ),
        (
            "start = kspace.shape[-1] // 2 - kept // 2",
            "start = (kspace.shape[-1] - kept) // 2",
            _ISMRMRD + "removing_oversampling_crops_the_image",
        ),
        # What was measured.
        (
            "count[place][samples] += 1",
            "count[place] += 1",
            _MEASUREMENT + "a_partial_echo_is_measured_in_part",
        ),
        (
            "if extra and not separate:",
            "if extra and separate:",
            _ISMRMRD + "noise_and_calibration_are_apart_and_other_scans_left_out",
        ),
        (
            "if len(steps) == 1 and self.encodings[1] > 1:",
            "if False:",
            _GEOMETRY + "random_scans_are_read_as_the_standard_says",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/ismrmrd_files.py",
        (
            "center=acquisition.center_sample - first",
            "center=acquisition.center_sample",
            _ISMRMRD + "a_short_readout_has_its_center_in_the_middle",
        ),
        (
            "image_shape=(z, x, y) if volume else (x, y)",
            "image_shape=(z, y, x) if volume else (y, x)",
            _ISMRMRD + "spokes_and_their_trajectory_come_back",
        ),
        (
            "if not roles and has(CALIBRATION, _CALIBRATION_AND_IMAGING):",
            "if not roles and has(CALIBRATION):",
            _ISMRMRD + "noise_and_calibration_are_apart_and_other_scans_left_out",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/geometry.py",
        (
            "round(samples * after / view)",
            "round(samples * recon.matrix[axis] / encoded.matrix[axis])",
            _MEASUREMENT + "the_shown_field_of_view_is_the_prescribed_one_in_every_format",
        ),
        (
            "voxel.append(slice_distance or thickness)",
            "voxel.append(thickness)",
            _GEOMETRY + "random_scans_are_read_as_the_standard_says",
        ),
        (
            "result[:3, :3] = directions.T * np.array(voxel)",
            "result[:3, :3] = directions * np.array(voxel)",
            "tests/experiments/test_reconstruct_views.py::test_nifti_images_lie_in_the_patient_as_the_scanner_says",
        ),
        (
            "np.ptp(along) / (count - 1)",
            "np.ptp(along) / count",
            _GEOMETRY + "slices_are_stacked_by_their_positions",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/sampled.py",
        (
            "if zeros.sum() > _FEW * mask.sum() and _are_holes(kspace, zeros):",
            "if zeros.any():",
            _MEASUREMENT + "what_was_measured_without_a_mask",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/echo_planar.py",
        (
            "return k[::-1] if line.reversed else k",
            "return k",
            _EPI + "delay_and_phase_come_from_the_lines_without_phase_encoding",
        ),
        (
            "delay + dwell * (np.arange(samples) + 0.5)",
            "delay + dwell * np.arange(samples)",
            _EPI + "samples_of_the_ramps_go_to_a_uniform_grid",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/twix.py",
        (
            "length = 2 * max(center - first, last + 1 - center)",
            "length = last + 1",
            _TWIX + "lines_noise_and_calibration_go_where_they_belong",
        ),
        (
            'not blocks[-1].is_flag_set("ACQEND")',
            "False",
            _TWIX + "damaged_and_other_raw_data_are_refused",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/bart.py",
        (
            "values.T.tofile(file)",
            "values.tofile(file)",
            _BART + "bytes_are_column_major_and_every_name_of_the_pair_works",
        ),
        (
            "(values[..., components] / np.asarray(image_shape))",
            "(values[..., components] * np.asarray(image_shape))",
            _BART + "trajectories_in_cycles_per_field_of_view_become_cycles_per_pixel",
        ),
        (
            "order = np.argsort(places)",
            "order = np.argsort(places)[::-1]",
            _BART + "axes_go_to_their_places_and_back",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/ct_files.py",
        (
            "(np.arange(views) + 0.5) * math.pi / views",
            "np.arange(views) * math.pi / views",
            _CT_FILES + "lodopab",
        ),
        ("np.rot90(image, axes=(1, 2))", "np.rot90(image, axes=(2, 1))", _CT_FILES + "lodopab"),
        (
            "(center - (detectors - 1) / 2) * spacing",
            "(center - detectors / 2) * spacing",
            _CT_FILES + "tomography",
        ),
        ("detector_distance=detector - source", "detector_distance=detector", _CT_FILES + "htc"),
        ("return np.deg2rad(degrees)", "return degrees", _CT_FILES + "htc"),
    ),
    *in_file(
        "fedrecon/data/formats/dicom_ct.py",
        (
            "(float(central[1]) - 1, float(central[0]) - 1)",
            "(float(central[0]) - 1, float(central[1]) - 1)",
            _CT_FILES + "dicom_ct_pd",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/dicom_elements.py",
        (
            "(pixels * slope + intercept)",
            "(pixels * slope - intercept)",
            _CT_FILES + "dicom_slices_are_sorted_and_rescaled",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/dicom_series.py",
        (
            'np.argsort(positions @ np.cross(*orientation), kind="stable")',
            "np.arange(len(positions))",
            _CT_FILES + "dicom_slices_are_sorted_and_rescaled",
        ),
        (
            "(along[-1] - along[0]) / (len(frames) - 1)",
            "np.median(gaps)",
            _DICOM + "rounded_positions_keep_the_distance_of_slices",
        ),
        (
            "beside > 2 * _last_digit(frames)",
            "beside > 0",
            _DICOM + "rounding_of_thin_slices_is_no_tilt",
        ),
        ("0.2 * length)", "0.3 * length)", _DICOM + "rounding_does_not_hide_a_missing_slice"),
        (
            "return (positions[-1] - positions[0]) / (len(positions) - 1)",
            "return distance * np.cross(*orientation)",
            _DICOM + "a_tilted_gantry_shears_the_stack",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/placed_images.py",
        (
            "np.diag([-1.0, -1, 1, 1])",
            "np.diag([1.0, 1, 1, 1])",
            _PLACED + "nifti_turns_to_the_right_and_to_the_front",
        ),
        ("spacing[1::-1]]", "spacing[:2]]", _PLACED + "dicom_holds_values_and_places"),
        (
            "affine @ [0, 0, number, 1]",
            "affine @ [0, number, 0, 1]",
            _PLACED + "dicom_holds_values_and_places",
        ),
    ),
    *in_file(
        "experiments/pipeline/image_files.py",
        (
            "if place.affine is None:",
            "if False:",
            "tests/experiments/test_reconstruct_ct.py::test_wrong_flags_are_named",
        ),
    ),
    *in_file(
        "experiments/pipeline/ct_reconstruction.py",
        (
            "attenuation_to_hu(images, options.water_attenuation)",
            "attenuation_to_hu(images, 1 / options.water_attenuation)",
            "tests/experiments/test_reconstruct_ct.py::test_dicom_and_nifti_put_the_disc_in_its_place",
        ),
        (
            "value != field.default",
            "False",
            "tests/experiments/test_reconstruct_ct.py::test_wrong_flags_are_named",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/ct_measurement.py",
        (
            "np.ascontiguousarray(scan.values[:, ::-1])",
            "scan.values",
            _TOMOGRAPHY + "cones_of_dicom_projections",
        ),
        ("source * math.sin(fan)", "source * math.tan(fan)", _TOMOGRAPHY + "arcs_are_chosen_by_their_names"),
        ("height = scan.spacing[0] * shrink", "height = pixel", _TOMOGRAPHY + "cones_of_dicom_projections"),
        (
            "geometry.axial_offset - middle",
            "geometry.axial_offset",
            _TOMOGRAPHY + "cones_of_dicom_projections",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/dicom_frames.py",
        (
            "(*_macros(group), *shared, header), image)",
            "(*shared, *_macros(group), header), pixels[0])",
            _DICOM + "multi_frame_files_state_place_and_rescaling_by_frame",
        ),
        (
            "corner + missing[1] * right * rows + missing[0] * down * columns",
            "corner + missing[0] * down * rows + missing[1] * right * columns",
            _DICOM + "mosaics_of_siemens",
        ),
        (
            "surplus = items if index == 0 and not second else surplus",
            "surplus = 0",
            _DICOM + "mosaics_of_siemens",
        ),
        (
            "(math.ceil(count / across), across)",
            "(across, across)",
            _DICOM + "tiles_of_united_imaging",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/fastmri.py",
        (
            "kspace = kspace[:, None] if kspace.ndim == 3 else kspace",
            "kspace = kspace[None] if kspace.ndim == 3 else kspace",
            _FASTMRI + "single_coil_files_need_the_caller_to_say_so",
        ),
        (
            "not np.isfinite(value).all():",
            "np.isinf(value).any():",
            _FASTMRI + "volumes_that_could_not_be_read_are_not_written",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/spokes.py",
        (
            "power[places > size / 4].sum()",
            "power[places > size / 2].sum()",
            "tests/experiments/test_reconstruct_views.py::test_the_whole_view_is_shown_where_the_object_fills_it",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/radial.py",
        (
            "trajectory = np.ascontiguousarray(trajectory[..., ::-1])",
            "trajectory = np.ascontiguousarray(trajectory)",
            _MEASUREMENT + "spokes_of_all_formats_agree",
        ),
    ),
    *in_file(
        "fedrecon/data/formats/measurement.py",
        (
            "image.transpose(0, 3, 1, 4, 2)",
            "image.transpose(0, 3, 1, 2, 4)",
            _MEASUREMENT + "volumes_become_slices_along_the_readout",
        ),
        (
            "starts = [ny // 2 - shown[0] // 2, nx // 2 - shown[1] // 2, 0]",
            "starts = [0, 0, 0]",
            "tests/experiments/test_reconstruct_views.py::test_nifti_images_lie_in_the_patient_as_the_scanner_says",
        ),
        (
            "voxel and (voxel[1], voxel[2], voxel[0])",
            "voxel and (voxel[2], voxel[1], voxel[0])",
            _MEASUREMENT + "volumes_become_slices_along_the_readout",
        ),
        (
            "trajectory = trajectory / np.float32(2 * np.pi)",
            "trajectory = trajectory / np.float32(np.pi)",
            _MEASUREMENT + "spokes_of_all_formats_agree",
        ),
    ),
)
