"""Mutants of the survey's applications."""

from tests.mutants.mutant import in_file

_FEDVSS = "tests/federated/test_fedvss.py::test_"
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
)  # fmt: skip
