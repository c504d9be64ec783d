"""VAFL: images in the manner of one client's synthetic ones, then FedAvg."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fedrecon.alignment import new_translator, selected, train_generator, train_translator, translated
from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.clients import place
from fedrecon.federated.messages import Message
from fedrecon.federated.methods.prepared import image_shape, prepared
from fedrecon.federated.phases import Beforehand, make_exchange
from fedrecon.federated.recipe import federated
from fedrecon.types import Task, Variables

# Where the statistics of a client's task have its translator, which never leaves.
TRANSLATOR = "translator"


def complexity(images: jax.Array) -> jax.Array:
    """Entropy in bits of the magnitude of an image's gradient, in 256 bins from 0 to its largest value.

    Args:
      images: (..., ny, nx, channels), of which channels are averaged.

    Returns:
      (...): 0 of a flat image.
    """
    gray = images.astype(jnp.float32).mean(-1)
    steep = jnp.hypot(*(jnp.asarray(jnp.gradient(gray, axis=axis)) for axis in (-2, -1)))
    most = steep.max((-2, -1), keepdims=True)
    bins = jnp.clip(256 * steep / jnp.where(most > 0, most, 1), 0, 255).astype(jnp.int32)
    flat = bins.reshape(-1, bins.shape[-2] * bins.shape[-1])
    part = jax.vmap(lambda b: jnp.bincount(b, length=256))(flat) / flat.shape[1]
    found = -(part * jnp.log2(jnp.where(part > 0, part, 1))).sum(-1)
    return found.reshape(bins.shape[:-2])


def harmonized_task(task: Task, example: Mapping[str, Any], *, samples: int = 200) -> Task:
    """The task on images that a client's translator has changed, the identity at first.

    Args:
      task: of batches with "image" (examples, ny, nx, channels).
      example: shapes and dtypes of a batch.
      samples: 0 leaves the task as it is.

    Raises:
      ValueError: there are no such images.
    """
    channels = image_shape(example)[-1]
    if not samples:
        return task

    def prepare(params, batch):
        return {**batch, "image": translated(params, batch["image"])}

    return prepared(task, TRANSLATOR, lambda: new_translator(jax.random.key(0), channels), prepare)


def harmonize(
    task: Task,
    variables: Variables,
    clients: Any,
    key: jax.Array,
    mesh: Mesh | None = None,
    *,
    samples: int = 200,
    generator_steps: int = 2000,
    translator_steps: int = 500,
    noise: float = 0.0,
) -> Beforehand:
    """Before the rounds: a target is chosen, sends synthetic images, and the others translate theirs.

    Every client sends the mean `complexity` of its images, four bytes. The one with the least trains
    `train_generator` and sends, in half precision, the `selected` samples; each other client keeps the
    translator that `train_translator` makes of its images and these. The target's is the identity, and so is
    everybody's where no sample is selected.

    Args:
      task: not used.
      variables: of `harmonized_task`.
      clients: training data, with "image" (clients, examples, ny, nx, channels).
      key: of everything that is drawn.
      mesh: of the rounds.
      samples: S; 0 exchanges nothing.
      generator_steps, translator_steps: of training, not negative.
      noise: multiplier of the critic's gradients; no budget is accounted, and the selection reads images.

    Raises:
      ValueError: arguments out of range, or a target with fewer than two images.
    """
    del task
    given = {"samples": samples, "generator_steps": generator_steps, "translator_steps": translator_steps}
    for name, value in {**given, "noise": noise}.items():
        if not value >= 0:
            raise ArgumentError(name, "a number of at least 0", repr(value))
    count = len(clients.valid)
    nothing = np.zeros(count, np.uint32)
    if not samples:
        return Beforehand(variables, None, nothing, nothing)

    def compute(payload, row, client, key):
        found = jnp.where(row.valid, complexity(row.examples["image"]), 0).sum()
        return Message(gathered=found / jnp.maximum(row.valid.sum(), 1))

    sent = make_exchange(compute, mesh=mesh)((), place(clients, mesh), key)
    present = np.asarray(sent.message.gathered.present)
    target = int(np.argmin(np.where(present, np.asarray(sent.message.gathered.values), np.inf)))
    images = np.asarray(clients.examples["image"], np.float32)
    valid = np.asarray(clients.valid)
    own = images[target][valid[target]]
    if len(own) < 2:
        raise ArgumentError("clients", "a target with two images or more", f"{len(own)} of client {target}")
    keys = jax.random.split(jax.random.fold_in(key, 1), count + 2)
    trained = jax.jit(train_generator, static_argnames=("steps", "noise"))
    generator = trained(jnp.asarray(own), keys[0], steps=generator_steps, noise=noise)
    made = selected(generator._replace(shape=own.shape[1:]), own, keys[1], samples)[0].astype(np.float16)
    bytes_up, bytes_down = np.asarray(sent.bytes_up).copy(), nothing.copy()
    bytes_up[target] += made.nbytes
    others = present & (np.arange(count) != target)
    bytes_down[others] += made.nbytes
    translator = variables.stats[TRANSLATOR]
    fit = jax.jit(train_translator, static_argnames=("steps",))
    received = jnp.asarray(made, jnp.float32)
    kept = [
        fit(images[i], valid[i], received, keys[i + 2], steps=translator_steps)
        if others[i] and len(made)
        else translator
        for i in range(count)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *kept)
    nowhere = jax.tree.map(lambda x: None, variables)
    private = nowhere._replace(stats={**nowhere.stats, TRANSLATOR: stacked})
    return Beforehand(variables, None, bytes_up, bytes_down, own=private)


def vafl(task: Task, optimizer: optax.GradientTransformation, **options: Any) -> FederatedAlgorithm:
    """VAFL (Yan et al. 2021, IEEE JBHI): variation-aware FedAvg on harmonized images.

    FedAvg of `harmonized_task`, after `harmonize`. Without samples it is FedAvg, bit for bit.

    Deviations: the publication leaves open how complexity is measured, how samples are chosen, and how the
    CycleGAN keeps lesions; filled in as described there. Networks are perceptrons (the generator and its
    critic of whole images, the discriminators of patches, the translators of pixels, their surroundings and
    their place) for images of some 32 x 32 pixels, in place of convolutions. The middle of an image stands
    for the lesion. Nothing of it is accounted as private, with noise or without. Translators stay at their
    clients, so that no model is handed out to sites that did not take part.

    Not reached: on phantoms of two contrasts a translator trained on the target's own images more than
    halves the sliced Wasserstein distance of intensities, one that is trained on samples of a generator after
    1000 steps leaves it as it was. Samples of so small a generator are the weak part.

    Args:
      task: of `harmonized_task`, or any other.
      optimizer: each client's optimizer.
      **options: as in `federated`.
    """
    stats = jax.eval_shape(task.init, jax.random.key(0)).stats
    shared = {name: name != TRANSLATOR for name in stats} if TRANSLATOR in stats else True
    return federated(task, optimizer, share_mask=Variables(True, shared), **options)
