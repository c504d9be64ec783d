"""Keys, certificates and start-up folders of parties for Flower, and the variables of its processes."""

import ipaddress
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedrecon.deployment.engine import SERVER, free_port
from fedrecon.deployment.local import FILE
from fedrecon.files import write_atomically

# In a party's folder.
AUTHORITY, SECRET, ADDRESS = "ca.crt", "runtime.secret", "superlink.json"
_DAYS = 360
_START = '#!/bin/sh\ncd "$(dirname "$0")/.." && exec python -m fedrecon.deployment.flower.party .\n'


def provision(folder: Path, sites: Sequence[str], *, host: str = "localhost", port: int = 0) -> None:
    """Makes a certificate authority, the server's certificate, keys of sites, and a folder for each party.

    Args:
      folder: gets ``authority/``, whose key stays with who made it, and ``parties/``.
      sites: names of the sites.
      host: where sites find the server: a name or an address; it is in its certificate.
      port: of the server; 0 takes one that is free here.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def private(key, form):
        return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())

    plain, ssh = serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.OpenSSH
    authority, own = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    root, certificate = _certificates(authority, own, host)
    _write(folder / "authority" / "ca.key", private(authority, plain), secret=True)
    address = json.dumps({"host": host, "port": port or free_port()}).encode()
    parties = folder / "parties"
    for name in (SERVER, *sites):
        startup = parties / name / "startup"
        _write(startup / AUTHORITY, root)
        _write(startup / ADDRESS, address)
        _write(startup / SECRET, secrets.token_hex(32).encode(), secret=True)
        _write(startup / "start.sh", _START.encode())
        (startup / "start.sh").chmod(0o755)
    _write(parties / SERVER / "startup" / "server.crt", certificate)
    _write(parties / SERVER / "startup" / "server.key", private(own, plain), secret=True)
    for name in sites:
        key = ec.generate_private_key(ec.SECP384R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        _write(parties / name / "startup" / "site.key", private(key, ssh), secret=True)
        _write(parties / name / "startup" / "site.pub", public)
        # What the server knows its sites by.
        _write(parties / SERVER / "startup" / "sites" / f"{name}.pub", public)


def configure(party: Path, local: Mapping[str, Any]) -> None:
    """Writes what a party decides for itself into its folder."""
    _write(party / FILE, (json.dumps(dict(local), indent=2) + "\n").encode())


def public_key(file: Path) -> bytes:
    """A public key file in the form in which Flower knows nodes: PEM."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_ssh_public_key(Path(file).read_bytes())
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def address(party: Path) -> tuple[str, int]:
    """Where the server is: (host, port)."""
    told = json.loads((party / "startup" / ADDRESS).read_text())
    return told["host"], told["port"]


def variables(party: Path) -> dict[str, str]:
    """Of Flower's processes of a party: nothing in the user's home, nothing sent home, nothing installed."""
    return {
        "FLWR_HOME": str(party / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


def _certificates(authority: Any, own: Any, host: str) -> tuple[bytes, bytes]:
    """(of the authority, of the server), PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    def name(common):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    def begun(subject, key):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("fedrecon authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=_DAYS))
        )

    # The server's own processes find it on this machine.
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    try:
        found: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        found = x509.DNSName(host)
    names += [found] if found not in names else []
    of_authority = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = (
        begun("fedrecon authority", authority)
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(of_authority, critical=False)
        .sign(authority, hashes.SHA384())
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(of_authority)
    certificate = (
        begun(host[:64], own)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    return root.public_bytes(pem), certificate.public_bytes(pem)


def _write(file: Path, content: bytes, *, secret: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not secret:
        write_atomically(file, content)
        return
    # Nobody else may read it at any time.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(content)
