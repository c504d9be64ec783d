"""Mutants of the survey's applications that segment tumors, prostates and organs."""

from tests.mutants.mutant import in_file

_NALAWADE = "tests/federated/test_nalawade.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/federated/methods/nalawade.py",
        ("jnp.maximum(found**power, _NOTHING)", "found**power",
         _NALAWADE + "equal_scores_weigh_the_same_and_none_weighs_nothing"),
        ("jnp.maximum(found**power, _NOTHING)", "jnp.maximum(found**power, 1e-3)",
         _NALAWADE + "who_scores_nothing_leaves_no_trace"),
        ("context.complete(result.variables)", "context.complete(context.received)",
         _NALAWADE + "the_mean_is_that_of_the_equations"),
        ("* result.weight**size_power", "", _NALAWADE + "by_sizes_alone_it_is_fedavg_bit_for_bit"),
        ("jnp.where(result.weight > 0, weight, 0)", "weight",
         _NALAWADE + "clients_without_examples_have_no_weight_and_further_methods_go_along"),
        ("context.batches.judged", '{**context.batches.examples, "valid": context.batches.present}',
         _NALAWADE + "scores_are_of_the_trained_model_on_the_validation_split"),
        ("found**power", "found", _NALAWADE + "the_mean_is_that_of_the_equations"),
    ),
)  # fmt: skip
