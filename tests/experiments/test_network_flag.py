"""Networks by name in tasks and programs, and refusals of those that a task cannot take."""

import jax
import numpy as np
import pytest

from experiments.pipeline.federated_data import make_task, representation
from experiments.pipeline.federated_settings import TrainSettings, check_settings, resolve
from fedrecon.models import NETWORKS
from fedrecon.training import FlagError, changed, named_task

EXAMPLE = {
    "image": jax.ShapeDtypeStruct((1, 16, 16, 1), np.float32),
    "segmentation": jax.ShapeDtypeStruct((1, 16, 16), np.float32),
    "label": jax.ShapeDtypeStruct((1,), np.int32),
}


CASES = [(t, n) for t in ("classification", "segmentation") for n in NETWORKS[t]]


def settings(**values):
    return changed(TrainSettings(), **values)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "network"), CASES)
def test_every_network_of_a_task_is_evaluated(task, network):
    made = named_task(task, EXAMPLE, network=network)
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    batch = {**EXAMPLE, "valid": jax.ShapeDtypeStruct((1,), bool)}
    shape = (1, 2) if task == "classification" else (1, 16, 16, 2)
    assert jax.eval_shape(made.predict, *shapes, batch).shape == shape


def test_representations_are_what_the_head_sees():
    for network, features in (("unet", 64), ("vit", 64)):
        task = make_task(settings(network=network), EXAMPLE)
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        found = jax.eval_shape(representation(task), *shapes, {"image": EXAMPLE["image"]})
        assert found.shape == (1, features) == (1, shapes.params["head"]["kernel"].shape[0])


def test_networks_that_do_not_fit_are_refused():
    for values, message in (
        (
            {"task": "segmentation", "network": "resnet18"},
            "--network: expected one of unet, residual-unet, swin-unet with --task=segmentation",
        ),
        ({"task": "reconstruction", "network": "vit"}, "--network: expected one of unet with"),
        ({"network": "alexnet"}, "--network: expected one of unet"),
        (
            {"network": "resnet18", "channels": 16},
            "--channels: expected --network=unet or residual-unet or swin-unet",
        ),
        ({"network": "vit", "norm": "batch"}, "--norm: expected a --network that does not normalize tokens"),
    ):
        with pytest.raises(FlagError, match=message):
            check_settings(settings(**values))
    check_settings(resolve({"preset": "smoke", "network": "resnet18", "norm": "group"}))
    with pytest.raises(ValueError, match="network: expected one of unet for reconstruction"):
        named_task("reconstruction", EXAMPLE, network="vit")
