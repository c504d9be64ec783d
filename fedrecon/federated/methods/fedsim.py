"""Fed-Sim: shapes and materials that all sites learn together, and a renderer of each, for labeled pairs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fedrecon.alignment import simulated_pairs
from fedrecon.errors import ArgumentError
from fedrecon.federated.algorithm import FederatedAlgorithm
from fedrecon.federated.clients import place
from fedrecon.federated.engine import init_state, make_round, run_rounds
from fedrecon.federated.evaluation import client_variables
from fedrecon.federated.methods.prepared import image_shape
from fedrecon.federated.methods.simulators import shared_simulator, simulator_task
from fedrecon.federated.phases import Beforehand
from fedrecon.federated.recipe import federated
from fedrecon.types import Batch, Metrics, PyTree, Task, Variables

# Where the statistics of a client's task have its simulated pairs, which never leave.
PAIRS = "pairs"
_BATCH = 16


def simulate(
    task: Task,
    variables: Variables,
    clients: Any,
    key: jax.Array,
    mesh: Mesh | None = None,
    *,
    samples: int = 64,
    simulator_rounds: int = 200,
    simulator_rate: float = 1e-2,
    latent: int = 16,
    hidden: int = 64,
) -> Beforehand:
    """Before the rounds: `shared_simulator` is trained, and each client draws pairs from its own.

    Args:
      task, variables: of `augmented_task`.
      clients: training data, with "image" and "segmentation".
      key: of everything that is drawn.
      mesh: of the rounds.
      samples: M, pairs of a client; 0 trains nothing.
      simulator_rounds: rounds of one epoch, in batches of 16.
      simulator_rate: of Adam, which falls to 0 with a cosine over the steps of the largest client.
      latent, hidden: as in `new_simulator`.

    Raises:
      ValueError: arguments out of range.
    """
    given = (("samples", samples, 0), ("simulator_rounds", simulator_rounds, 1))
    for name, value, least in (*given, ("simulator_rate", simulator_rate, 0)):
        if not value >= least:
            raise ArgumentError(name, f"at least {least}", repr(value))
    count = len(clients.valid)
    if not samples:
        return Beforehand(variables, None, np.zeros(count, np.uint32), np.zeros(count, np.uint32))
    example = {name: jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype) for name, x in clients.examples.items()}
    classes = jax.eval_shape(task.predict, *variables, example).shape[-1]
    simulator = simulator_task(example, classes, latent=latent, hidden=hidden)
    steps = simulator_rounds * -(-int(np.sum(clients.valid, 1).max()) // _BATCH)
    algorithm = shared_simulator(simulator, optax.adam(optax.cosine_decay_schedule(simulator_rate, steps)))
    keys = jax.random.split(key, 3)
    start = init_state(algorithm, simulator.init(keys[0]), clients, mesh)
    rounds = run_rounds(make_round(algorithm, batch_size=_BATCH, epochs=1, mesh=mesh), simulator_rounds)
    # Reading clients' states beside collectives in flight may leave these without threads on CPU devices.
    state, infos = jax.device_get(jax.block_until_ready(rounds(start, place(clients, mesh), keys[1])))
    size = image_shape(example)[:2]
    draw = jax.jit(lambda params, k: simulated_pairs(params, k, samples, size))
    own = enumerate(jax.random.split(keys[2], count))
    pairs = [draw(client_variables(algorithm, state, i).params, k) for i, k in own]
    image, labels = (jnp.stack(x) for x in zip(*pairs, strict=True))
    kept = {"image": image, "segmentation": labels.astype(variables.stats[PAIRS]["segmentation"].dtype)}
    nowhere = jax.tree.map(lambda x: None, variables)
    private = nowhere._replace(stats={**nowhere.stats, PAIRS: kept})
    up, down = (np.asarray(x, np.uint64).sum(0)[:count] for x in (infos.bytes_up, infos.bytes_down))
    return Beforehand(variables, None, up, down, own=private)


def augmented_task(task: Task, example: Mapping[str, Any], *, samples: int = 64) -> Task:
    """The segmentation on as many simulated pairs as real ones in every step.

    Args:
      task: of batches with "image" (examples, ny, nx, channels) and "segmentation".
      example: shapes and dtypes of a batch.
      samples: pairs that a client has; 0 leaves the task as it is.

    Raises:
      ValueError: there are no such images.
    """
    image_shape(example)
    if not samples:
        return task
    names = ("image", "segmentation")

    def init(key: jax.Array) -> Variables:
        variables = task.init(key)
        pairs = {name: jnp.zeros((samples, *example[name].shape[1:]), example[name].dtype) for name in names}
        return Variables(variables.params, {**variables.stats, PAIRS: pairs})

    def plain(stats: Mapping) -> dict:
        return {name: x for name, x in stats.items() if name != PAIRS}

    def loss(
        params: PyTree, stats: PyTree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        drawn = jax.random.randint(jax.random.fold_in(key, 19), batch["valid"].shape, 0, samples)
        both = {name: jnp.concatenate([batch[name], stats[PAIRS][name][drawn]]) for name in names}
        both["valid"] = jnp.tile(batch["valid"], 2)
        value, (new, metrics) = task.loss(params, plain(stats), both, key)
        return value, ({**new, PAIRS: stats[PAIRS]}, metrics)

    def seen(function: Any) -> Any:
        return lambda params, stats, batch: function(params, plain(stats), batch)

    normal = task.normalization.stats | {PAIRS: dict.fromkeys(names, False)}
    return Task(init, loss, seen(task.metrics), seen(task.predict), task.normalization._replace(stats=normal))


def fedsim(task: Task, optimizer: optax.GradientTransformation, **options: Any) -> FederatedAlgorithm:
    """Fed-Sim (Li et al. 2020, MICCAI, arXiv:2009.00668): FedAvg of segmentations on simulated pairs, too.

    FedAvg of `augmented_task`, after `simulate`. Without samples it is FedAvg, bit for bit. The publication's
    data are cardiac CT of several sites, volumes; slices of hearts in MRI, of CT and photographs of the
    retina stand in. Its comparison are shapes of a statistical model, `fedrecon.alignment.shape_model`.

    Deviations: filled in from the abstract, and in two dimensions. Shapes are a variational autoencoder of
    perceptrons in place of a template that is deformed. A class's material is its mean intensity in images of
    mean 0 and variance 1, which a normal prior describes; of a real image it is the image's own. Renderers
    are perceptrons of a pixel, its surroundings and its place; all parts learn at once, at one rate. Nothing
    of it is accounted as private.

    Shapes of few cases may repeat those of the training: `fedrecon.evaluation.memorization` tells.

    Args:
      task: of `augmented_task`, or any other.
      optimizer: each client's optimizer.
      **options: as in `federated`.
    """
    stats = jax.eval_shape(task.init, jax.random.key(0)).stats
    shared = {name: name != PAIRS for name in stats} if PAIRS in stats else True
    return federated(task, optimizer, share_mask=Variables(True, shared), **options)
