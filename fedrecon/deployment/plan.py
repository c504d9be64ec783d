"""What is trained in a deployment, as server and sites build it for themselves from the same settings."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrecon import federated as fl
from fedrecon.data import ClientData
from fedrecon.deployment.errors import DeploymentError
from fedrecon.deployment.roster import Facts, stand_in
from fedrecon.deployment.wire import shapes_digest
from fedrecon.federated.methods.mean_amplitude import mean_amplitude
from fedrecon.federated.phases import Exchanged, Gathered, Split, exchanging
from fedrecon.federated.split import ClientRow, client_rows
from fedrecon.training import Budget, FederationSettings, FlagError, Spending, Stage, method, plan_privacy
from fedrecon.training.stage import Prepared, check_private, in_topology, noise_key, prepared
from fedrecon.types import Variables

# Exchanges before the rounds that are sums of what sites compute by themselves.
_SPLIT_BEFORE = (mean_amplitude,)


class Problem(NamedTuple):
    """What a job trains, of client data that may be stand-ins.

    Attributes:
      stage: ``stage(clients) -> Stage``; the same for the same shapes, names and numbers of examples.
      federation: how sites train together.
      budget: of the training.
    """

    stage: Callable[[ClientData], Stage]
    federation: FederationSettings
    budget: Budget


class Plan(NamedTuple):
    """What server and sites know once the facts of all sites are there.

    Attributes:
      prepared: the algorithm and the model that it starts from.
      settings: of the federation.
      budget: of the training.
      noise: what may be released; None without privacy.
      key: of the rounds, as in the simulation.
      clients: stand-ins of all sites.
      frozen: leaves of the model that are never trained; None without any.
      hides: whether the server is to learn sums only.
    """

    prepared: Prepared
    settings: FederationSettings
    budget: Budget
    noise: Spending | None
    key: jax.Array
    clients: ClientData
    frozen: Variables | None
    hides: bool

    @property
    def variables(self) -> Variables:
        """The whole initial model."""
        return self.prepared.stage.variables

    @property
    def digest(self) -> str:
        """SHA-256 of the names, shapes and dtypes of the whole model, hexadecimal."""
        return shapes_digest(self.variables)

    def shared(self, variables: Variables) -> Variables:
        """The leaves of a model that travel, None in other places."""
        return fl.split.partition(variables, self.prepared.algorithm.share_mask)[0]

    def site(self, data: ClientData, client: int) -> fl.split.Site:
        """The half of one site, from its own data of the length of the stand-ins."""
        return fl.split.make_site(
            self.prepared.algorithm,
            self.variables,
            data,
            client,
            self.clients.clients,
            frozen=self.frozen,
            **self.prepared.work,
        )

    def server(self) -> fl.split.Server:
        """The half of the server."""
        lead = self.clients.valid.shape[1:]
        examples: dict[str, Any] = {
            name: jax.ShapeDtypeStruct((*lead, *x.shape[2:]), jax.dtypes.canonicalize_dtype(x.dtype))
            for name, x in self.clients.examples.items()
        }
        valid: Any = jax.ShapeDtypeStruct(lead, bool)
        row = ClientRow(examples, valid)
        return fl.split.make_server(self.prepared.algorithm, self.variables, row, self.clients.clients)


def check_deployable(settings: FederationSettings) -> None:
    """Refuses what only a simulation in one place can do.

    Raises:
      FlagError: names the flag and why.
    """
    entry = method(settings.algorithm)
    settings = in_topology(settings)
    simulated = {
        "topology": "sites exchange with a server alone",
        "clock": "real sites have clocks of their own",
        "stragglers": "real sites are slow by themselves",
        "fault": "experiments.deploy_faults has real ones",
        "attack": "attacks are simulated",
        "stream": "every site holds its data itself",
        "fine_tune": "sites fine-tune by themselves",
        "patience": "validation is not exchanged",
        "downlink": "sites receive the model as it is",
        "riders": "riders are simulated",
    }
    for name, why in simulated.items():
        only, found = getattr(FederationSettings(), name), getattr(settings, name)
        if found != only:
            raise FlagError(name, f"{only} in a deployment: {why}", found)
    reason = ""
    if not entry.exchanges or entry.pooled:
        reason = "comparators exchange nothing, or pool data that may not be pooled"
    elif entry.validates:
        reason = "its clients keep validation data, which sites are not asked for"
    elif {"memory", "contrast"} & set(entry.needs):
        reason = "it needs what another program gives it"
    elif entry.before is not None and entry.before not in _SPLIT_BEFORE:
        reason = "what its clients exchange before the rounds is no sum that sites compute by themselves"
    if reason:
        raise FlagError("algorithm", "one that can be split over sites", f"{settings.algorithm}: {reason}")
    if settings.secure_aggregation == "lightsecagg":
        expected = "secagg or secagg+, which send words of 32 bits"
        raise FlagError("secure_aggregation", expected, settings.secure_aggregation)
    if "groups" in dict(settings.secure_aggregation_options):
        raise FlagError("secure_aggregation.groups", "none: a round has one sum in a deployment", "groups")
    if settings.dp_epsilon and settings.dp_unit == "site":
        raise FlagError("dp_unit", "example or patient, whose noise a site adds by itself", "site")
    if settings.dp_epsilon and settings.dp_noise == "secure":
        expected = "simulation: sites that draw for themselves have --site_keys"
        raise FlagError("dp_noise", expected, settings.dp_noise)


def make_plan(
    problem: Problem,
    roster: Sequence[Facts],
    exchange: Callable[[Split, Any, Any, jax.Array], Exchanged],
    own: ClientData | None = None,
) -> Plan:
    """Builds what is trained.

    Args:
      problem: of the job.
      roster: the facts of all sites, in the order of their numbers.
      exchange: carries out what sites exchange before the rounds.
      own: the data of this site, of which privacy is checked; None at the server.

    Raises:
      ValueError: the settings or the facts do not go together; names the flag.
    """
    settings = problem.federation
    check_deployable(settings)
    settings = in_topology(settings)
    clients = stand_in(roster)
    stage = problem.stage(clients)
    if own is not None:
        check_private(stage._replace(clients=own), settings)
    noise = plan_privacy(settings, [(clients, {stage.name: problem.budget})]).noise[stage.name]
    with exchanging(exchange):
        made = prepared(stage, settings, problem.budget, noise)
    if made.before is not None and made.before.own is not None:
        raise DeploymentError("algorithm", "one whose sites start from one model", settings.algorithm)
    hides = made.algorithm.channel.hides
    key = noise_key(made.stage, settings)
    return Plan(made, settings, problem.budget, noise, key, clients, made.tuning.frozen, hides)


def of_site(noise: Spending, name: str, most_epsilon: float) -> Spending:
    """What one site may release: of its own data alone, up to the least of two budgets."""
    target = min(noise.target, most_epsilon) if most_epsilon else noise.target
    return noise._replace(units={name: noise.units[name]}, deltas={name: noise.deltas[name]}, target=target)


class Waiting(Exception):  # noqa: N818
    """Unwinds what a site builds as far as an exchange whose result it does not know yet.

    Attributes:
      message: `Message` that the site sends for it.
    """

    def __init__(self, message: fl.Message) -> None:
        super().__init__("an exchange before the rounds")
        self.message = message


def replaying(
    results: Sequence[Callable[[Exchanged], Exchanged]], data: ClientData, client: int
) -> Callable[[Split, Any, Any, jax.Array], Exchanged]:
    """``exchange`` of a site: what is known is returned, and for the first that is not it has a message.

    Args:
      results: of exchanges that were carried out, each from its shapes and dtypes.
      data: of this site alone.
      client: its number.

    Raises:
      Waiting: from the exchange.
    """
    known = iter(results)

    def exchange(split, payload, everybody, key):
        for read in known:
            return read(jax.eval_shape(split.whole, payload, everybody, key))
        placed = fl.place(data)
        row = client_rows(placed)

        @jax.jit
        def compute(payload, row, key):
            number = jax.numpy.asarray(client, jax.numpy.int32)
            return split.compute(payload, row.one(0), number, jax.random.fold_in(key, client))

        raise Waiting(compute(payload, row, key))

    return exchange


def asking(
    ask: Callable[[int, fl.Message], Sequence[fl.Message | None]], present: np.ndarray
) -> Callable[[Split, Any, Any, jax.Array], Exchanged]:
    """``exchange`` of the server: sums what sites answer, in their order, as in one place.

    Args:
      ask: ``ask(number, like) -> messages``, the messages of all sites for the exchange of this number, of
        the given shapes and dtypes; None of sites without examples.
      present: bool (clients,), who has examples.
    """
    count = iter(range(10**6))

    def exchange(split, payload, everybody, key):
        row = client_rows(everybody)
        number = jax.ShapeDtypeStruct((), jax.numpy.int32)
        like = jax.eval_shape(lambda p, r, n, k: split.compute(p, r.one(0), n, k), payload, row, number, key)
        shapes = jax.eval_shape(split.whole, payload, everybody, key)
        messages = ask(next(count), like)
        blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        filled = [blank if message is None else message for message in messages]
        total = blank._replace(gathered=())
        for message in filled:
            total = jax.tree.map(lambda t, x: (t + x).astype(t.dtype), total, message._replace(gathered=()))
        participants = np.int32(present.sum())
        scalars = jax.tree.map(lambda x: x / np.maximum(participants, 1).astype(x.dtype), total.scalars)
        gathered = jax.tree.map(lambda *x: np.stack(x), *(m.gathered for m in filled))
        numbers = np.arange(len(present), dtype=np.int32)
        leaves = jax.tree.leaves(like)
        up = sum(x.size * x.dtype.itemsize for x in leaves)
        down = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(payload))
        found = Exchanged(
            fl.Message(total.summed, scalars, Gathered(gathered, numbers, present)),
            participants,
            (present * up).astype(np.uint32),
            (present * down).astype(np.uint32),
        )
        return jax.tree.map(lambda shape, x: np.asarray(x, shape.dtype), shapes, found)

    return exchange


@contextlib.contextmanager
def naming_site(name: str) -> Iterator[None]:
    """Errors of the library in this block as those of a site."""
    try:
        yield
    except DeploymentError:
        raise
    except ValueError as error:
        raise DeploymentError(name, "a site that goes with the job", str(error)) from error
