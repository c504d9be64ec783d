"""The tasks of the package with their networks, by name, and those that users make."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from fedrecon.errors import ArgumentError
from fedrecon.models import (
    CARTESIAN,
    CONFIGURED,
    MAGNITUDES,
    NETWORKS,
    NORMALIZED,
    NORMS,
    POOLED,
    RECONSTRUCTORS,
    SEGMENTERS,
    SEPARATED,
    SIZED,
    SUPERVISED,
    SUPERVISED_POOLS,
    UNROLLED,
    PlugAndPlay,
    named_classifier,
    named_reconstructor,
    sizes_of,
)
from fedrecon.tasks import (
    RECONSTRUCTION_LOSSES,
    Configured,
    classification_task,
    denoising_task,
    measure_of,
    reconstruction_task,
    segmentation_loss,
    segmentation_task,
)
from fedrecon.types import Task, Variables

TASKS = ("classification", "segmentation", "reconstruction")


def named_task(
    name: str,
    example: Mapping[str, Any],
    *,
    network: str = "unet",
    channels: int = 8,
    pools: int = 2,
    norm: str = "instance",
    classes: int = 2,
    cascades: int = 3,
    flip: bool = False,
    boundary: float = 0.0,
    loss: str = "l1_ssim",
    remat: bool = False,
    configuration: Configured | None = None,
) -> Task:
    """A task of the package.

    Args:
      name: "classification" ("image" and "label"), "segmentation" ("image" and "segmentation", background and
        structures), both of images or volumes, or "reconstruction" (of multi-coil MRI, as `mri_examples`
        makes, or of sinograms, see `measure_of`).
      example: arrays (examples, ...), or what has their shapes and dtypes.
      network: one of `fedrecon.models.NETWORKS` of the task.
      channels: of the network at full resolution, of one in ``SIZED``; others have the sizes published.
      pools: of the network, likewise.
      norm: one of `NORMS`, of a network in ``NORMALIZED``; the others normalize tokens.
      classes: of the classification, or of the segmentation with the background.
      cascades: of the reconstruction, of a network in ``UNROLLED``.
      loss: of the reconstruction, one of ``RECONSTRUCTION_LOSSES``.
      remat: cascades of a network in ``UNROLLED`` are computed again in the backward pass.
      flip: mirrors images of a classification left to right at random; those of a segmentation always are.
      boundary: weight of the boundary loss of a segmentation, see `segmentation_loss`.
      configuration: of a segmentation by a U-Net: halvings, patches and normalization, in place of ``pools``.

    Raises:
      ValueError: there is no such task, it has no such network, or the examples are not of it.
    """
    check_network(name, network, len(configuration.configuration.strides) if configuration else pools)
    image = example.get("image")
    if name != "reconstruction" and image is not None and len(image.shape) not in (4, 5):
        raise ArgumentError("image", "arrays (examples, [nz,] ny, nx, channels)", image.shape)
    if name == "classification":
        model = named_classifier(network, image, channels=channels, pools=pools, norm=norm, classes=classes)
        return classification_task(model, example, flip=flip)
    if name == "segmentation":
        sizes = sizes_of(network, channels, pools, norm)
        options: dict[str, Any] = {"flip": True}
        if boundary or network in SEPARATED:
            options["loss"] = segmentation_loss(boundary=boundary, separate=network in SEPARATED)
        if configuration:
            if network not in CONFIGURED:
                raise ArgumentError("network", f"one of {', '.join(CONFIGURED)}, to configure", network)
            found = configuration.configuration
            sizes |= {"pools": found.strides, "windows": found.windows, "most": found.most}
            options["normalize"] = configuration.normalize()
            if found.patch != tuple(example["segmentation"].shape[1:]):
                options["patch"] = found.patch
        # Of one structure, which is rare, the first predictions are background.
        out = {"out_channels": classes} if classes > 2 else {"output_bias": -3.0}
        return segmentation_task(SEGMENTERS[network](**sizes, **out), example, **options)
    check_loss(loss, network, example)
    model = named_reconstructor(network, cascades=cascades, channels=channels, pools=pools, norm=norm)
    if remat:
        if network not in UNROLLED:
            raise ArgumentError("remat", f"a network among {', '.join(UNROLLED)}", network)
        model = model.clone(remat=True)
    if isinstance(model, PlugAndPlay):
        return denoising_task(model, measure_of(example), example)
    return reconstruction_task(model, measure_of(example), example, loss=RECONSTRUCTION_LOSSES[loss].function)


def check_loss(loss: str, network: str, example: Mapping[str, Any]) -> None:
    """Raises ValueError where a reconstruction network, or its loss, is not of these data."""
    if loss not in RECONSTRUCTION_LOSSES:
        raise ArgumentError("loss", f"one of {', '.join(RECONSTRUCTION_LOSSES)}", repr(loss))
    if network == "plug-and-play" and loss != "l1_ssim":
        raise ArgumentError(
            "loss", "the default with plug-and-play, which learns to denoise references", loss
        )
    samples = "kspace" if "kspace" in example else "sinogram"
    if network in CARTESIAN and samples != "kspace":
        fitting = [name for name in RECONSTRUCTORS if name not in CARTESIAN]
        raise ArgumentError("network", f"one of {', '.join(fitting)} for sinograms", network)
    named = RECONSTRUCTION_LOSSES[loss]
    if samples not in named.samples:
        fitting = [name for name, of in RECONSTRUCTION_LOSSES.items() if samples in of.samples]
        of = {"kspace": "k-space", "sinogram": "sinograms"}[samples]
        raise ArgumentError("loss", f"one of {', '.join(fitting)} for {of}", loss)
    if network in MAGNITUDES and named.reference != "magnitude":
        fitting = [name for name in RECONSTRUCTORS if name not in MAGNITUDES]
        raise ArgumentError("network", f"one of {', '.join(fitting)} with loss={loss}", network)
    if named.reference == "complex" and example["target"].dtype.kind != "c":
        raise ArgumentError("loss", f"another than {loss}, since references are magnitudes", loss)


def check_network(task: str, network: str, pools: int = SUPERVISED_POOLS) -> None:
    """Raises ValueError where there is no such task, or it has no such network, or not of these poolings."""
    if task not in TASKS:
        raise ArgumentError("task", f"{', '.join(TASKS)} or a task", repr(task))
    if network not in NETWORKS[task]:
        raise ArgumentError("network", f"one of {', '.join(NETWORKS[task])} for {task}", repr(network))
    if network in SUPERVISED and pools < SUPERVISED_POOLS:
        expected = f"{SUPERVISED_POOLS} or more for {network}, whose coarsest output has no weight"
        raise ArgumentError("pools", expected, pools)


def check_sizes(task: str, sizes: Mapping[str, Any]) -> None:
    """Refuses arguments of `named_task` that the network has not, or that are no such numbers.

    Args:
      task: its name.
      sizes: "network", "channels", "pools", "norm", "cascades", "configure", or some of them.

    Raises:
      ValueError: names the argument.
    """
    network = sizes.get("network", "unet")
    check_network(task, network)
    by_rules = sizes.get("configure") == "fingerprint"
    taken = {
        "network": True,
        "configure": task == "segmentation",
        "channels": network in SIZED,
        "pools": network in POOLED and not by_rules,
        "norm": network in NORMALIZED,
        "cascades": task == "reconstruction" and network in UNROLLED,
        "loss": task == "reconstruction",
    }
    for name, value in sizes.items():
        if not taken.get(name):
            expected = f"{', '.join(key for key, has in taken.items() if has)} for {network} of {task}"
            raise ArgumentError("network", expected, repr(name))
        least = {"channels": 1, "pools": 0, "cascades": 1}.get(name)
        if least is not None and not (isinstance(value, int) and value >= least):
            raise ArgumentError(f"network[{name!r}]", f"a whole number of {least} or more", repr(value))
    if sizes.get("configure", "fingerprint") != "fingerprint":
        raise ArgumentError("network['configure']", "fingerprint", repr(sizes["configure"]))
    if by_rules and network not in CONFIGURED:
        raise ArgumentError("network", f"one of {', '.join(CONFIGURED)}, to configure", repr(network))
    if "norm" in sizes and sizes["norm"] not in NORMS:
        raise ArgumentError("network['norm']", f"one of {', '.join(NORMS)}", repr(sizes["norm"]))


def made_task(task: Any, example: Mapping[str, Any]) -> Task:
    """A task, or what a function makes of an example, once it has been traced with the example.

    Args:
      task: a `Task`, or ``task(example) -> Task``.
      example: arrays (examples, ...), or what has their shapes and dtypes.

    Raises:
      ValueError: it is neither, or asks for examples that the data do not have.
    """
    with _asking(example):
        made = task if isinstance(task, Task) else task(example) if callable(task) else None
        if not isinstance(made, Task):
            found = f"a function that returns {type(made).__name__}" if callable(task) else repr(task)
            raise ArgumentError("task", "a fedrecon.Task, or a function of an example that makes one", found)
        shapes = {name: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype) for name, x in example.items()}
        batch = {**shapes, "valid": jax.ShapeDtypeStruct((2,), bool)}
        variables = jax.eval_shape(made.init, key := jax.random.key(0))
        if not isinstance(variables, Variables):
            raise ArgumentError("task.init", "fedrecon.Variables", type(variables).__name__)
        loss = jax.eval_shape(lambda *arguments: made.loss(*arguments)[0], *variables, batch, key)
        if loss.shape != ():
            raise ArgumentError("task.loss", "a scalar first", f"the shape {loss.shape}")
        jax.eval_shape(made.metrics, *variables, batch)
    return made


@contextlib.contextmanager
def _asking(example: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        if not error.args or error.args[0] in example:
            raise
        raise ArgumentError("task", f"keys of the examples ({', '.join(sorted(example))})", error) from error
