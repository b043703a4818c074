"""Certificates that have signed themselves."""

from __future__ import annotations

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
