"""Mutants of streams of blocks, whose sites come and go."""

from tests.mutants.mutant import in_file

_STREAMS = "tests/training/test_streams.py::test_"
_REMEMBERING = "tests/federated/test_remembering.py::test_"
_TRANSFER = "tests/evaluation/test_transfer.py::test_figures_by_hand"
_RANKS = (
    "tests/evaluation/test_domains.py::"
    "test_rank_correlations_are_spearmans_with_the_interval_of_bonett_and_wright"
)
_FEATURES = "tests/evaluation/test_domains.py::test_distances_are_of_the_features_of_all_valid_examples"
MUTANTS = (
    *in_file(
        "fedrecon/evaluation/domains.py",
        (
            "2 * cross",
            "cross",
            "tests/evaluation/test_transfer.py::test_distances_of_domains_are_those_of_normal_distributions",
        ),
        ("(1 + rho**2 / 2)", "1.06", _RANKS),
        ("(count - 3)", "(count - 1)", _RANKS),
        ("stats.rankdata(values[known])", "values[known]", _RANKS),
    ),
    *in_file(
        "experiments/pipeline/site_distances.py",
        ("key=lambda x: x.shape[-1]", "key=lambda x: -x.shape[-1]", _FEATURES),
        ("[: len(rows)]", "", _FEATURES),
    ),
    *in_file(
        "fedrecon/evaluation/forgetting.py",
        ("np.nanmax(before[:, known], 0)", "before[-1, known]", _TRANSFER),
        ("np.diag(found, 1) - start[1:]", "np.diag(found, -1) - start[1:]", _TRANSFER),
        ("sign * (last - diagonal)[:-1]", "sign * (last - diagonal)", _TRANSFER),
    ),
    *in_file(
        "experiments/pipeline/unseen_sites.py",
        (
            "np.nan) - score_of(kind, draw(away[seed][site]))",
            "np.nan) + score_of(kind, draw(away[seed][site]))",
            "tests/experiments/test_leave_one_site_out.py::test_"
            "figures_of_patients_are_means_over_seeds_with_intervals",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/remembering.py",
        (
            'x / jnp.maximum(found["count"], 1)',
            "x",
            _REMEMBERING + "the_fisher_diagonal_is_the_mean_over_all_examples",
        ),
        (
            "jax.tree.map(jnp.add, memory.importance, importance)",
            "importance",
            _REMEMBERING + "the_fisher_diagonal_is_the_mean_over_all_examples",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/ewc.py",
        (
            "* f * (p - v)",
            "* f * (v - p)",
            _REMEMBERING + "a_step_of_ewc_is_that_of_the_quadratic_penalty",
        ),
    ),
    *in_file(
        "fedrecon/federated/methods/lwf.py",
        (
            "strength * temperature**2 * mean",
            "strength * temperature * mean",
            _REMEMBERING + "lwf_adds_the_divergence_from_the_last_model",
        ),
    ),
    *in_file(
        "fedrecon/training/streams.py",
        (
            "if not (left := tuple(block for block in rest if block.members))",
            "if not (left := tuple(rest))",
            _STREAMS + "texts_tell_blocks",
        ),
        ("if member.site not in members:", "if False:", _STREAMS + "a_wrong_text_is_refused_in_a_line"),
        (
            "np.array_split(order, member.parts)[member.part - 1]",
            "np.array_split(order, member.parts)[0]",
            _STREAMS + "parts_divide_patients_and_scanners_change_images",
        ),
    ),
)
