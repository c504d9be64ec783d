"""What programs know of engines, without any of them installed; keys and certificates of Flower's parties."""

import contextlib
import importlib.metadata
import importlib.util
import json
import socket
import ssl

import pytest

from experiments.pipeline import deploy_check
from experiments.pipeline.deploy_processes import Processes
from fedrecon.deployment import ENGINES, SERVER, DeploymentError, Engine, engine_of
from fedrecon.deployment.flower import control, kits, party
from fedrecon.deployment.parties import local_site

SITES = ("site-1", "site-2")


@pytest.fixture(scope="module")
def parties(tmp_path_factory):
    pytest.importorskip("cryptography")
    folder = tmp_path_factory.mktemp("flower")
    kits.provision(folder, SITES, host="hub.example.org", port=4433)
    return folder / "parties"


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_not_installed_names_its_extra(name, monkeypatch):
    found = engine_of(name)
    assert isinstance(found, Engine) and found.name == name
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match=rf"pip install 'fedrecon\[{name}\]'"):
        found.need()


def test_another_minor_version_of_flower_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1.43.0")
    flower = engine_of("flower")
    with pytest.raises(ImportError, match=r"flwr 1.43.0 is installed: pip install .* brings 1\.42"):
        flower.need()
    engine_of("flare").need()
    kinds = {verdict.subject: verdict.kind for verdict in deploy_check._versions(flower)}
    assert kinds["flwr"] == "stop" and kinds["jax"] == "ok"
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1.42.7")
    flower.need()


def handshake(server, client, host):
    """A TLS handshake in memory."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(one, other, server_hostname=host), server.wrap_bio(other, one, server_side=True)]
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].version()


def test_sites_trust_the_certificate_of_their_server_alone(parties, tmp_path):
    startup = parties / SERVER / "startup"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(startup / "server.crt", startup / "server.key")

    def client(folder):
        return ssl.create_default_context(cafile=folder / "site-1" / "startup" / kits.AUTHORITY)

    for host in ("hub.example.org", "localhost", "127.0.0.1"):
        assert handshake(server, client(parties), host).startswith("TLS")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client(parties), "elsewhere.example.org")
    kits.provision(tmp_path, SITES, host="hub.example.org", port=4433)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client(tmp_path / "parties"), "hub.example.org")


def test_keys_stay_where_they_belong(parties):
    private = {file.relative_to(parties.parent).as_posix() for file in parties.parent.rglob("*.key")}
    own = {f"parties/{name}/startup/site.key" for name in SITES}
    assert private == {"authority/ca.key", "parties/server/startup/server.key"} | own
    secrets = [parties.parent / name for name in private] + list(parties.rglob(kits.SECRET))
    assert len(secrets) == 7
    assert all(file.stat().st_mode & 0o077 == 0 for file in secrets)
    assert len({file.read_bytes() for file in secrets}) == 7
    for name in SITES:
        mine = parties / name / "startup" / "site.pub"
        known = parties / SERVER / "startup" / "sites" / f"{name}.pub"
        assert kits.public_key(mine) == kits.public_key(known)


def test_commands_have_tls_and_keys_and_what_would_be_sent_home_is_off(parties, monkeypatch):
    link, node = party.superlink(parties / SERVER), party.supernode(parties / "site-1", 5)
    assert {"--enable-supernode-auth", "--ssl-keyfile", "0.0.0.0"} <= set(link)
    assert {"--auth-supernode-private-key", "--root-certificates", "hub.example.org:4433"} <= set(node)
    for command in (link, node):
        compile(command[2], "program", "exec")
        assert command[2].endswith("finally:\n    os._exit(1)")
        assert "--insecure" not in command
        assert command[command.index("--isolation") + 1] == "process"
        assert "--superexec-auth-secret-file" in command
    command = engine_of("flower").command(parties / "site-1", "site-1")
    told = command.environment
    assert told["FLWR_TELEMETRY_ENABLED"] == "0" and told["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert told["FLWR_HOME"] == str(parties / "site-1" / "flwr")
    assert "serverapp = " in control._APP and ".py" not in control._APP
    monkeypatch.setattr(party, "address", lambda folder: ("127.0.0.1", 5))
    assert "0.0.0.0" not in party.superlink(parties / SERVER)


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DeploymentError, match=f"port: expected one .* not in use, found {port}"):
            party._check_free(port)
    party._check_free(port)
    with pytest.raises(DeploymentError, match="folder: expected that of a party, made by init"):
        party.main(str(tmp_path))


def test_the_end_of_a_log_has_no_colors_and_nothing_of_earlier_runs(tmp_path):
    running = Processes(engine_of("flower").command, tmp_path, tmp_path)
    (tmp_path / "server.log").write_bytes(b"of before\n\x1b[92mINFO\x1b[0m: one\ntwo\n")
    assert running.log_end("server", 5, len(b"of before\n")) == "INFO: one\ntwo"
    assert running.log_end("server", 1) == "two" and not running.log_end("site-1")


def test_a_page_of_keys_has_what_is_wrong_with_them(parties, tmp_path):
    kits.provision(tmp_path, SITES, host="localhost")
    kit = tmp_path / "parties" / "site-1"

    def kinds():
        return [verdict.kind for verdict in deploy_check._keys(kit)]

    assert kinds() == ["ok", "ok", "ok"]
    (kit / "startup" / "site.key").chmod(0o644)
    (kit / "startup" / "site.pub").write_bytes((parties / "site-2" / "startup" / "site.pub").read_bytes())
    assert kinds() == ["ok", "stop", "note"]
    engine = engine_of("flower")
    (found,) = deploy_check._network(engine, kit)
    assert (found.kind, found.subject) == ("note", "network") and "does not answer" in found.sentence


def test_a_site_of_a_folder_has_its_own_policy(tmp_path):
    local = {"problem": "json:loads", "data": "json:loads", "folder": str(tmp_path / "own"), "client": 1}
    local |= {"name": "b", "policy": {"minimum": 3, "approved": ["x"]}}
    kits.configure(tmp_path, local)
    assert json.loads((tmp_path / "local" / "fedrecon.json").read_text()) == local
    assert local_site(tmp_path).policy.approved == ("x",)
    kits.configure(tmp_path, local | {"policy": {"minimal": 3}})
    with pytest.raises(ValueError, match="found minimal"):
        local_site(tmp_path)
