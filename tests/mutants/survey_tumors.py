"""Mutants of the survey's applications that segment tumors, prostates and organs."""

from tests.mutants.mutant import in_file

_NALAWADE = "tests/federated/test_nalawade.py::test_"
_SHELLER = "tests/federated/test_sheller.py::test_"
_PASS = _SHELLER + "a_single_pass_goes_on_from_what_early_stopping_kept"
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
    *in_file(
        "fedrecon/federated/methods/sheller.py",
        ("(memory.waited < patience) & (loss", "(loss", _PASS),
        ("& (loss < memory.loss)", "& (loss <= jnp.inf)", _PASS),
        ("jnp.where(better, 0, memory.waited + passed)", "memory.waited + passed", _PASS),
        ("variables=memory.best)", "variables=result.variables)", _PASS),
        ("if patience else None", "if patience > 1 else None", _PASS),
        ("-(-context.batches.count // batch[\"valid\"].shape[0])", "1",
         _SHELLER + "passes_end_with_the_last_batch_of_the_examples"),
        ("context.batches.judged", '{**context.batches.examples, "valid": context.batches.present}', _PASS),
    ),
)  # fmt: skip
