"""Mutants of the survey's methods, of alignment, and of probes of sites."""

from tests.mutants.mutant import in_file

_DROPOUT = "tests/federated/test_feddropoutavg.py::test_"
_FREQUENCY = "tests/alignment/test_frequency.py::test_"
_CONTRAST = "tests/alignment/test_contrast.py::test_"
_SHIFTS = "tests/evaluation/test_shifts.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/federated/methods/moon.py",
        (
            'result.variables if against == "trained"',
            'result.variables if against == "received"',
            "tests/federated/test_fedcl.py::test_the_negative_is_the_model_received_in_the_round_before",
        ),
    ),
    *in_file(
        "fedrecon/communication/methods/feddropoutavg.py",
        (
            "kept = 1 - client_drop_rate",
            "kept = client_drop_rate",
            _DROPOUT + "clients_take_part_with_the_rate_and_never_nobody",
        ),
        (
            "random_mask(1 - federated_drop_rate)",
            "random_mask(federated_drop_rate)",
            _DROPOUT + "what_both_of_two_drop_stays_exactly",
        ),
        (
            "lambda tried: ~tried[1].any(), again",
            "lambda tried: ~tried[1].any() & (tried[0] < 0), again",
            _DROPOUT + "clients_take_part_with_the_rate_and_never_nobody",
        ),
    ),
    *in_file(
        "fedrecon/alignment/frequency.py",
        (
            "new = own + mix * (target - own)",
            "new = own + mix * target",
            _FREQUENCY + "nothing_changes_without_a_mix_or_with_its_own_amplitude",
        ),
        (
            "<= part * n / 2 for n",
            "<= part * n for n",
            _FREQUENCY + "kernels_share_amplitudes_and_keep_phases",
        ),
        (
            "kernels.transpose(0, 3, 1, 2, 4)",
            "kernels.transpose(0, 1, 3, 2, 4)",
            _FREQUENCY + "kernels_share_amplitudes_and_keep_phases",
        ),
    ),
    *in_file(
        "fedrecon/alignment/contrast.py",
        (
            "jnp.where(negative, others - similar, each)",
            "each",
            _CONTRAST + "it_is_the_formula_with_several_positives",
        ),
        ("(order >= total - size)", "(order < size)", _CONTRAST + "banks_keep_the_last_in_their_order"),
    ),
    *in_file(
        "fedrecon/evaluation/shifts.py",
        ("image[tissue].mean() / np.sqrt(coils)", "image[tissue].mean()", _SHIFTS + "probes_by_hand"),
        ("_coil_powers(kspace, outer)[0] / 2", "_coil_powers(kspace, outer)[0]", _SHIFTS + "probes_by_hand"),
        (
            "_replace(p_value=adjusted[name])",
            "_replace(p_value=shift.p_value)",
            _SHIFTS + "shifts_are_in_deviations_and_equal_values_differ_or_not",
        ),
    ),
)
