"""Certificates that have signed themselves."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def self_signed(folder: Path, name: str, *flags: str) -> tuple[Path, Path]:
    """A key and its certificate, for this machine. flags: of `openssl req`, where the key is to be encrypted."""
    key, found = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", found,
         *(flags or ("-nodes",))],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, found


def both_ends(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What makes connections TLS, for a server and for its client."""
    key, found = self_signed(folder, "both")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(found, key)
    return server, ssl.create_default_context(cafile=str(found))
