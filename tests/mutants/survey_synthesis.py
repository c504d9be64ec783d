"""Mutants of massive training, of semi-supervised separated decoders, and of simulated pairs."""

from tests.mutants.mutant import in_file

_MASSIVE = "tests/tasks/test_massive_training.py::test_"
MUTANTS = (
    *in_file(
        "fedrecon/tasks/massive_training.py",
        (
            "start = (center // nx, center % nx,",
            "start = (center % nx, center // nx,",
            _MASSIVE + "centers_of_patches_are_the_image",
        ),
        (
            "around = (patch // 2, patch // 2)",
            "around = (patch // 2 + 1, patch // 2 - 1)",
            _MASSIVE + "centers_of_patches_are_the_image",
        ),
        (
            "x = jax.nn.relu(x) @",
            "x = jax.nn.tanh(x) @",
            _MASSIVE + "the_network_at_every_pixel_is_that_of_each_patch",
        ),
        (
            "place = jnp.searchsorted(ranks, chosen + 1)",
            "place = jnp.searchsorted(ranks, chosen)",
            _MASSIVE + "half_of_the_patches_are_of_the_structure",
        ),
        (
            "counted = found & batch",
            "counted = batch",
            _MASSIVE + "patches_that_there_are_not_have_no_part",
        ),
        ("/ (2 * width**2)", "/ width**2", _MASSIVE + "the_teacher_is_the_mask_or_its_likelihood"),
        (
            "+ 1) / _BINS",
            ") / _BINS",
            _MASSIVE + "the_threshold_is_otsus",
        ),
        (
            "names, 0, lax.max, (3, 3)",
            "names, 0, lax.max, (3, 1)",
            _MASSIVE + "the_largest_component_is_that_of_scipy",
        ),
        (
            "count - jnp.argmax(sizes[::-1])",
            "jnp.argmin(sizes)",
            _MASSIVE + "the_largest_component_is_that_of_scipy",
        ),
    ),
    *in_file(
        "fedrecon/training/before_rounds.py",
        (
            "return made, drawn, ()",
            "pass",
            "tests/training/test_before_rounds.py::test_another_network_starts_from_itself_alone",
        ),
    ),
)
