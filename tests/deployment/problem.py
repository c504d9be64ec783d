"""A tiny training of a deployment: images of 4 x 4 in two classes, at sites of different sizes."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import Task, Variables
from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.deployment import Job, LocalSite, Problem, coordinate, one_client
from fedrecon.training import Budget, FederationSettings, Stage, plan_privacy
from fedrecon.training.stage import in_topology, noise_key, prepared
from fedrecon.weights import read_weights

SIZES = (7, 4, 6)


def task():
    def init(key):
        return Variables(
            {"norm": {"gain": jnp.ones(16)}, "head": {"w": jnp.zeros((16, 2)), "b": jnp.zeros(2)}}, {}
        )

    def logits(params, batch):
        x = batch["image"].reshape(-1, 16) * params["norm"]["gain"]
        return x @ params["head"]["w"] + params["head"]["b"]

    def loss(params, stats, batch, key):
        each = -jax.nn.log_softmax(logits(params, batch))[jnp.arange(len(batch["label"])), batch["label"]]
        valid = batch["valid"]
        return jnp.where(valid, each, 0).sum() / jnp.maximum(valid.sum(), 1), (stats, {})

    def metrics(params, stats, batch):
        return {}

    mask = Variables({"norm": True, "head": False}, {})
    return Task(init, loss, metrics, lambda params, stats, batch: logits(params, batch), mask)


def clients(sites=2):
    rng, length = np.random.default_rng(0), max(SIZES[:sites])
    valid = np.arange(length) < np.asarray(SIZES[:sites])[:, None]
    image = rng.normal(size=(sites, length, 4, 4, 1)).astype(np.float32) + 1
    label = rng.integers(0, 2, (sites, length)).astype(np.int32)
    image[~valid], label[~valid] = 0, 0
    return ClientData({"image": image, "label": label}, valid, tuple(f"hospital{i}" for i in range(sites)))


def problem(settings):
    """Of the settings ``{"federation": {...}, "rounds": n}``."""
    key = jax.random.key(3)

    def stage(data):
        made = task()
        return Stage("training", made, made.init(key), data, key, key)

    budget = Budget(settings["rounds"], 1, settings.get("batch", 3), 0.1)
    return Problem(stage, FederationSettings(**settings["federation"]), budget)


def site_data(settings, client, data_dir):
    """Of a party's folder."""
    return one_client(clients(), client)


def simulated(settings, sites=2):
    """(released, own models, state) of the same training in one compiled round after the other."""
    given = problem(settings)
    stage, federation = given.stage(clients(sites)), in_topology(given.federation)
    noise = plan_privacy(federation, [(stage.clients, {stage.name: given.budget})]).noise[stage.name]
    made = prepared(stage, federation, given.budget, noise)
    placed = fl.place(stage.clients, frozen=made.tuning.frozen)
    state = fl.init_state(made.algorithm, made.stage.variables, placed)
    round_ = fl.make_round(made.algorithm, **made.work)
    for _ in range(settings["rounds"]):
        state, _ = round_(state, placed, noise_key(made.stage, federation))
    whole = made.tuning.whole
    own = [whole(fl.client_variables(made.algorithm, state, i)) for i in range(sites)]
    return whole(made.algorithm.release(state)), own, state


def make_sites(folder, sites=2, problem=problem, policy=None):
    return [
        LocalSite(
            folder / f"site{i}",
            f"hospital{i}",
            i,
            problem,
            lambda settings, i=i: one_client(clients(sites), i),
            policy,
        )
        for i in range(sites)
    ]


def ask_of(parties, seen=None):
    """A transport in one process; ``seen`` collects (kind, client, message, answer)."""

    def ask(kind, messages):
        answers = {client: parties[client].answer(message) for client, message in messages.items()}
        if seen is not None:
            seen.extend((kind, client, messages[client], answer) for client, answer in answers.items())
        return answers

    return ask


def train(folder, settings, parties=None, ask=None, sites=2):
    parties = parties or make_sites(folder, sites)
    job = Job("job", settings, sites)
    outcome = coordinate(job, problem(settings), folder / "server", ask or ask_of(parties))
    own = [read_weights(folder / f"site{i}" / "model.npz")[0] for i in range(sites)]
    return outcome, own


def largest_difference(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b)).max(initial=0)) for a, b in pairs)
