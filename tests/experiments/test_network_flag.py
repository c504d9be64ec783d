"""Networks by name in tasks and programs, and refusals of those that a task cannot take."""

import jax
import numpy as np
import pytest

import fedrecon
from experiments import export
from experiments.pipeline import downstream
from experiments.pipeline import settings as full_stack
from experiments.pipeline.federated_data import make_task, representation
from experiments.pipeline.federated_settings import TrainSettings, check_settings, resolve
from fedrecon.models import NETWORKS, UNet
from fedrecon.training import FlagError, changed, named_task


def example(*sizes):
    return {
        "image": jax.ShapeDtypeStruct((1, *sizes, 1), np.float32),
        "segmentation": jax.ShapeDtypeStruct((1, *sizes), np.float32),
        "label": jax.ShapeDtypeStruct((1,), np.int32),
    }


EXAMPLE = example(16, 16)
CASES = [
    (task, network, sizes)
    for task in ("classification", "segmentation")
    for network in NETWORKS[task]
    # VGG halves images five times.
    for sizes in (((32, 32), (32, 32, 32)) if network == "vgg11" else ((16, 16), (16, 16, 8)))
]


def settings(**values):
    return changed(TrainSettings(), **values)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "network", "sizes"), CASES)
def test_every_network_of_a_task_is_evaluated(task, network, sizes):
    # Group normalization: of 8 slices, too, a pixel is left at the last level.
    norm = {} if network in ("vit", "vit-b", "swin-unet") else {"norm": "group"}
    pools = {"pools": 3} if "supervision" in network else {}
    made = named_task(task, example(*sizes), network=network, **norm, **pools)
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    batch = {**example(*sizes), "valid": jax.ShapeDtypeStruct((1,), bool)}
    shape = (1, 2) if task == "classification" else (1, *sizes, 2)
    assert jax.eval_shape(made.predict, *shapes, batch).shape == shape


def parameters(task):
    return jax.eval_shape(task.init, jax.random.key(0)).params


def test_all_programs_make_a_network_of_a_name_alike():
    for kind, network in (("segmentation", "residual-unet-deep-supervision"), ("classification", "vit")):
        sizes = {"channels": 4, "pools": 3} if kind == "segmentation" else {}
        trained = make_task(settings(task=kind, network=network, classes=2, **sizes), EXAMPLE)
        finetune = {f"finetune_{name}": value for name, value in sizes.items()}
        changes = {f"{kind}_network": network, **finetune}
        whole = downstream.make_task(kind, changed(full_stack.FullStackSettings(), **changes), EXAMPLE)
        assert parameters(trained) == parameters(whole)
        if kind == "segmentation":
            net = UNet(4, 3, residual=True, deep_supervision=True)
            direct = jax.eval_shape(net.init, jax.random.key(0), EXAMPLE["image"])
            assert parameters(whole) == direct["params"]


def test_full_stack_refuses_networks_and_sizes_without_effect():
    for values, message in (
        ({"segmentation_network": "resnet18"}, "--segmentation_network: expected one of"),
        ({"classification_network": "swin-unet"}, "--classification_network: expected one of"),
        ({"network": "resnet18"}, "--network: expected one of"),
    ):
        with pytest.raises(FlagError, match=message):
            full_stack.resolve({"preset": "smoke", **values})
    with pytest.raises(FlagError, match="--finetune_pools: expected 3 or more with --segmentation_network"):
        full_stack.resolve({"preset": "smoke", "segmentation_network": "unet-deep-supervision"})
    alone = {"classification_network": "vit", "segmentation_network": "swin-unet", "finetune_pools": 1}
    assert full_stack.resolve({"preset": "smoke", **alone}).finetune_pools == 1


def test_run_refuses_networks_by_name(tmp_path):
    sites = {name: {"image": np.zeros((6, 8, 8)), "label": np.arange(6) % 2} for name in "ab"}
    for task, network, message in (
        ("classification", "swin-unet", "network: expected one of unet"),
        ("classification", {"network": "resnet18", "channels": 4}, "network: expected network, norm for"),
        ("classification", {"channels": 0}, "network\\['channels'\\]: expected a whole number of 1"),
        ("classification", {"norm": "none"}, "network\\['norm'\\]: expected one of instance"),
        (lambda example: None, "unet", "network: expected none with a task of your own"),
    ):
        with pytest.raises(ValueError, match=message):
            fedrecon.run(sites, task, workdir=tmp_path / "none", rounds=1, network=network)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_volumes_are_segmented_under_deep_supervision_and_exported(tmp_path):
    rng = np.random.default_rng(0)
    sites = {}
    for name in "ab":
        mask = rng.random((6, 4, 8, 8)) < 0.2
        sites[name] = {"image": (mask + 0.1 * rng.normal(size=mask.shape))[..., None], "segmentation": mask}
    network = {"network": "unet-deep-supervision", "channels": 2, "pools": 3}
    options = {"optimizer": "adam", "learning_rate": 0.03, "batch_size": 2}
    folder = tmp_path / "run"
    result = fedrecon.run(sites, "segmentation", workdir=folder, rounds=6, network=network, **options)
    assert result.history[-1]["loss"] < 0.9 * result.history[0]["loss"]
    export.run(str(folder), str(tmp_path / "export"))
    given = {"image": rng.normal(size=(2, 4, 8, 8, 1)).astype(np.float32)}
    found = np.asarray(fedrecon.load(tmp_path / "export").predict(given))
    logits = UNet(2, 3, output_bias=-3.0).apply({"params": result.variables.params}, given["image"])[..., 0]
    np.testing.assert_allclose(found[..., 1], jax.nn.sigmoid(logits), atol=2e-6)


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
            "--network: expected one of unet, residual-unet, .*, separated-unet with --task=segmentation",
        ),
        ({"task": "reconstruction", "network": "vit"}, "--network: expected one of unet, varnet, "),
        ({"network": "alexnet"}, "--network: expected one of unet"),
        (
            {"network": "resnet18", "channels": 16},
            "--channels: expected --network=unet or residual-unet or .* or swin-unet",
        ),
        ({"task": "segmentation", "network": "unet-deep-supervision"}, "--pools: expected 3 or more with"),
        ({"configure": "fingerprint"}, "--configure: expected --task=segmentation"),
        (
            {"task": "segmentation", "network": "swin-unet", "configure": "fingerprint"},
            "--network: expected one of unet, .* with --configure=fingerprint",
        ),
        (
            {"task": "segmentation", "configure": "fingerprint", "pools": 3},
            "--pools: expected --configure=flags",
        ),
        ({"boundary": 0.1}, "--boundary: expected --task=segmentation"),
        ({"network": "vit", "norm": "batch"}, "--norm: expected a --network with normalization layers"),
    ):
        with pytest.raises(FlagError, match=message):
            check_settings(settings(**values))
    check_settings(resolve({"preset": "smoke", "network": "resnet18", "norm": "group"}))
    with pytest.raises(ValueError, match=r"network: expected one of unet, .*, fbpconvnet for reconstruction"):
        named_task("reconstruction", EXAMPLE, network="vit")
