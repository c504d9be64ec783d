"""Compression as a setting: what goes together, and what is refused by name."""

import jax
import jax.numpy as jnp
import pytest

from fedrecon import communication
from fedrecon.training import FederationSettings, FlagError, check_method
from fedrecon.training.codecs import encoded_size, make_codec
from fedrecon.types import Task, Variables


def settings(codec, secure="none", secure_options=(), **options):
    texts = tuple((name, str(value)) for name, value in options.items())
    return FederationSettings(
        codec=codec,
        codec_options=texts,
        secure_aggregation=secure,
        secure_aggregation_options=secure_options,
    )


@pytest.mark.parametrize("name", communication.CODECS)
def test_every_codec_is_made_and_secure_sums_take_those_that_add(name):
    made = make_codec(settings(name))
    assert made is not None
    if made.sums:
        check_method(settings(name, "secagg"))
    else:
        with pytest.raises(FlagError, match="codec: expected one whose messages add over clients, random_k"):
            check_method(settings(name, "secagg"))


def test_options_are_converted_and_wrong_ones_named():
    assert make_codec(FederationSettings()) is None
    assert make_codec(settings("qsgd", levels=3)).codec.name == "qsgd-3-512"
    for wrong, words in (
        (settings("top_k", fraction=2), r"codec\.fraction: expected a number in \(0, 1\]"),
        (settings("top_k", part=2), r"codec\.part: expected one of top_k's options"),
        (settings("none", fraction=0.1), "codec: expected a codec for its options"),
        (
            settings("random_k", "secagg", (("groups", "2"),)),
            "codec: expected none with --secure_aggregation.groups",
        ),
        (
            FederationSettings(codec="qsgd", dp_epsilon=1.0, dp_unit="site"),
            "codec: expected none with --dp.unit=site",
        ),
    ):
        with pytest.raises(FlagError, match=words):
            make_codec(wrong)


def test_a_secure_sum_has_the_words_of_the_encoded_change():
    variables = Variables({"a": jnp.zeros((40, 30)), "b": jnp.zeros(7)}, {"count": jnp.zeros(())})
    task = Task(lambda key: variables, *[None] * 4)
    share = Variables({"a": True, "b": False}, True)
    assert encoded_size(None, share, task) == 1201
    sizes = {
        name: encoded_size(communication.named_codec(name), share, task)
        for name in ("random_k", "power_sgd", "majority_vote")
    }
    assert sizes == {"random_k": 121, "power_sgd": 2 * (40 + 30) + 1, "majority_vote": 1201}
    assert jax.tree.leaves(share) == [True, False, True]
