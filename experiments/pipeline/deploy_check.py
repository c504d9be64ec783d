"""What a site's engineer runs first: plain verdicts on versions, network, data, memory and one dry step."""

import importlib.metadata
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from experiments.pipeline.deploy_run import Deployment
from experiments.pipeline.deployed import of_job, problem, site_data
from fedrecon.data import ClientData
from fedrecon.deployment import Engine, Facts, local_settings, minor_version, settings_digest
from fedrecon.deployment.plan import make_plan
from fedrecon.training import FlagError

# Counts below it are not shown, so that a page may leave the hospital.
FEWEST = 10
_NEEDED = {"jax": (0, 10), "flax": (0, 12)}


class Verdict(NamedTuple):
    """One line of the page.

    Attributes:
      kind: "ok", "note" (training is possible) or "stop".
      subject: what was looked at.
      sentence: what was found, and what to do.
    """

    kind: str
    subject: str
    sentence: str


def check_site(made: Deployment, site: str) -> list[Verdict]:
    """Looks at one site; nothing is sent, and nothing but this site's data is read.

    Raises:
      FlagError: there is no such site.
    """
    if site not in made.sites:
        raise FlagError("site", f"one of {', '.join(made.sites)}", site)
    kit = made.kits / site
    found: list[Verdict] = []
    loaded: list[ClientData] = []
    parts: list[tuple[str, Callable[[], Iterator[Verdict]]]] = [
        ("versions", lambda: _versions(made.carrier)),
        ("certificate", lambda: _certificate(kit, site) if made.engine == "flare" else _keys(kit)),
        ("network", lambda: _network(made.carrier, kit)),
        ("disk", lambda: _disk(made.site(site), kit)),
        ("policy", lambda: _policy(made, kit)),
        ("data", lambda: _data(made, kit, loaded)),
        ("dry step", lambda: _dry_step(made, kit, loaded)),
    ]
    for subject, look in parts:
        try:
            found += look()
        # Whatever goes wrong is what the engineer wants to know.
        except Exception as error:
            found.append(Verdict("stop", subject, " ".join(str(error).split())[:300]))
    return found


def print_page(site: str, job: str, verdicts: list[Verdict]) -> None:
    """Prints the page."""
    width = max(len(verdict.subject) for verdict in verdicts)
    print(f"{site}, before it takes part in {job}\n")
    for kind, subject, sentence in verdicts:
        print(f"{kind:4}  {subject:{width}}  {sentence}")
    print()
    stops = sum(verdict.kind == "stop" for verdict in verdicts)
    print(f"{stops} to be mended before this site can take part" if stops else "This site can take part.")


def _versions(engine: Engine) -> Iterator[Verdict]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Verdict(
        "ok" if sys.version_info >= (3, 11) else "stop", "python", f"{python}; 3.11 or later is needed"
    )
    for name, least in (_NEEDED | engine.versions).items():
        needed = ".".join(map(str, least))
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            told = f"not installed; pip install 'fedrecon[{engine.name}]' brings {needed} or later"
            yield Verdict("stop", name, told)
            continue
        exactly = engine.pinned and name == engine.package
        own = minor_version(name)
        enough = own == least if exactly else own >= least
        told = f"{found}; {needed} is needed" if exactly else f"{found}; {needed} or later is needed"
        yield Verdict("ok" if enough else "stop", name, told)


def _certificate(kit: Path, site: str) -> Iterator[Verdict]:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import NameOID

    folder = kit / "startup"
    own = x509.load_pem_x509_certificate((folder / "client.crt").read_bytes())
    root = x509.load_pem_x509_certificate((folder / "rootCA.pem").read_bytes())
    own.verify_directly_issued_by(root)
    key = serialization.load_pem_private_key((folder / "client.key").read_bytes(), None)
    if key.public_key() != own.public_key():
        yield Verdict("stop", "certificate", "the key client.key is not that of client.crt")
    name = own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    if name != site:
        yield Verdict("stop", "certificate", f"it is that of {name}, not of {site}")
    yield _valid(own, f"of {name}, signed by the project's authority")
    yield _hidden(folder / "client.key")


def _keys(kit: Path) -> Iterator[Verdict]:
    """Of a site that its server knows by a public key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    folder = kit / "startup"
    root = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    yield _valid(root, "of the project's authority")
    key = serialization.load_ssh_private_key((folder / "site.key").read_bytes(), None)
    same = key.public_key() == serialization.load_ssh_public_key((folder / "site.pub").read_bytes())
    told = "site.pub belongs to site.key" if same else "site.pub, which the server knows, is not of site.key"
    yield Verdict("ok" if same else "stop", "key", told)
    yield _hidden(folder / "site.key")


def _valid(certificate: Any, told: str) -> Verdict:
    days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    kind = "stop" if days < 0 else "note" if days < 30 else "ok"
    return Verdict(kind, "certificate", f"{told}, valid for {days} days")


def _hidden(file: Path) -> Verdict:
    mode = file.stat().st_mode & 0o077
    told = "nobody else can read it" if not mode else "others on this machine can read it: chmod 600"
    return Verdict("note" if mode else "ok", "private key", told)


def _network(engine: Engine, kit: Path) -> Iterator[Verdict]:
    found = engine.network(kit)
    target = f"{found.host}:{found.port}"
    try:
        with socket.create_connection((found.host, found.port), timeout=5) as plain:
            context = ssl.create_default_context(cafile=found.authority)
            if found.identity is not None:
                # FLARE looks at who has signed alone.
                context.check_hostname = False
                context.load_cert_chain(*found.identity)
            with context.wrap_socket(plain, server_hostname=found.host) as wrapped:
                told = f"{target} answers with a certificate of the project ({wrapped.version()})"
        yield Verdict("ok", "network", told)
    except ssl.SSLError as error:
        yield Verdict("stop", "network", f"{target} answers, and is not the project's server: {error.reason}")
    except OSError as error:
        told = f"{target} does not answer ({error}); is the server started, and outgoing TCP to it allowed?"
        yield Verdict("note", "network", told)


def _disk(folder: Path, kit: Path) -> Iterator[Verdict]:
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, kit):
        probe = place / ".check"
        probe.write_bytes(b"")
        probe.unlink()
    free = shutil.disk_usage(folder).free / 2**30
    yield Verdict(
        "ok" if free > 1 else "stop", "disk", f"{free:.1f} GiB free, and both folders can be written"
    )


def _policy(made: Deployment, kit: Path) -> Iterator[Verdict]:
    policy = local_settings(kit).get("policy", {})
    digest, approved = settings_digest(made.settings), policy.get("approved", ["any"])
    if "any" in approved:
        yield Verdict("note", "policy", "jobs of any settings may run; name those that may under approved")
    elif digest in approved:
        yield Verdict("ok", "policy", f"this job ({digest[:8]}...) is approved, and no other")
    else:
        yield Verdict("stop", "policy", f"this job ({digest[:8]}...) is not approved")
    if of_job(made.settings).federation.dp_epsilon and not policy.get("own_key"):
        told = (
            "noise comes from the job's seed, which the server knows: a rehearsal; --own_keys is for patients"
        )
        yield Verdict("note", "noise", told)


def _data(made: Deployment, kit: Path, loaded: list[ClientData]) -> Iterator[Verdict]:
    local = local_settings(kit)
    data = site_data(made.settings, local["client"], local.get("data_dir", ""))
    loaded.append(data)
    facts = Facts.of(data)
    least = local.get("policy", {}).get("minimum", 1)
    kind = "ok" if facts.examples >= least else "stop"
    yield Verdict(kind, "examples", f"{_count(facts.examples)} for training; the site's minimum is {least}")
    if facts.patients:
        yield Verdict("ok", "patients", _count(facts.patients))
    valid = np.asarray(data.valid[0])
    for name, value in data.examples.items():
        rows = np.asarray(value[0])[valid]
        told = f"{value.dtype} {tuple(value.shape[2:])}"
        if np.issubdtype(rows.dtype, np.inexact) and not np.isfinite(rows).all():
            yield Verdict("stop", f"array {name}", f"{told}, with numbers that are not finite")
        else:
            yield Verdict("ok", f"array {name}", told)
    if "label" in data.examples and np.asarray(data.examples["label"]).ndim == 2:
        labels, counts = np.unique(np.asarray(data.examples["label"][0])[valid], return_counts=True)
        told = ", ".join(f"{label}: {_count(int(n))}" for label, n in zip(labels, counts, strict=True))
        yield Verdict("ok", "labels", told)


def _count(number: int) -> str:
    return str(number) if number >= FEWEST else f"fewer than {FEWEST}"


def _dry_step(made: Deployment, kit: Path, loaded: list[ClientData]) -> Iterator[Verdict]:
    """One round on this site's data, as if all sites had such data; what it computes is thrown away."""
    if not loaded:
        yield Verdict("stop", "dry step", "not tried without data")
        return
    data, client = loaded[0], local_settings(kit)["client"]
    facts = Facts.of(data)
    roster = [facts._replace(name=facts.name if n == client else name) for n, name in enumerate(made.sites)]
    plan = make_plan(problem(made.settings), roster, lambda split, *given: split.whole(*given), data)
    site, server = plan.site(data, client), plan.server()
    invitation = server.invite(server.state, plan.key)
    start = time.monotonic()
    sent, _ = jax.block_until_ready(site.turn(invitation, site.rows, plan.key, plan.key))
    first = time.monotonic() - start
    bad = [x for x in jax.tree.leaves(sent.sums) if not np.isfinite(np.asarray(x, np.float64)).all()]
    if bad or not bool(sent.record["included"]):
        yield Verdict("stop", "dry step", "the update is not finite, or the site has no weight")
    else:
        yield Verdict("ok", "dry step", f"a round, compiling included, took {first:.1f} s")
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(plan.variables))
    used, free = psutil.Process().memory_info().rss, psutil.virtual_memory().available
    kind = "ok" if free > used else "note"
    told = f"model {size / 2**20:.2f} MiB, this process {used / 2**20:.0f} MiB with a round, "
    told += f"{free / 2**20:.0f} MiB free"
    yield Verdict(kind, "memory", told)
    yield Verdict("ok", "model", f"{plan.digest[:16]}...; it must be the same at all sites")
