"""Mutants of personal models that follow local ones, and of routing at test time."""

from tests.mutants.mutant import in_file

_IOP_FL = "tests/federated/test_iop_fl.py::test_"
_ROUTING = "tests/tasks/test_routing.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/federated/methods/iop_fl.py",
        (
            "kept * own + (1 - kept) * new",
            "(1 - kept) * own + kept * new",
            _IOP_FL + "personal_models_are_those_of_the_equation",
        ),
        (
            'jnp.where(state["begun"], mixing, 0)',
            'jnp.where(state["begun"], mixing, mixing)',
            _IOP_FL + "personal_models_are_those_of_the_equation",
        ),
    ),
    *in_file(
        "fedrecon/tasks/routing.py",
        ("jax.nn.sigmoid(hidden @", "jax.nn.softmax(hidden @", _ROUTING + "each_example_has_its_own_kernel"),
        ("y = (x - x.mean(axes)) *", "y = x *", _ROUTING + "each_example_has_its_own_kernel"),
        (
            ".sum(-1).mean() / jnp.log(p.shape[-1])",
            ".sum(0).mean() / jnp.log(p.shape[-1])",
            _ROUTING + "entropy_is_over_classes_and_between_none_and_one",
        ),
        (
            "largest(foreground) + largest(-foreground)",
            "largest(foreground) + foreground",
            _ROUTING + "the_shape_term_is_zero_of_constants_and_grows_with_boundaries",
        ),
        ("back = jnp.where(flip, back[:, ::-1], back)", "back = back", _ROUTING + "turns_are_undone"),
    ),
)
