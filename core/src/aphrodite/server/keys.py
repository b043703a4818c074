"""Keys: read from a flag, a file or the environment, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path

from aphrodite.errors import UsageError


class Keys:
    """A set of keys. Empty: nobody needs one."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._pepper = secrets.token_bytes(32)  # hashes in a memory image say nothing of short keys
        self._hashes = tuple(self._hash(key.encode()) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def hold(self, key: bytes | None) -> bool:
        """Whether this is one of them. Takes as long for a wrong key as for a right one, whatever its length."""
        return self.owner(key) is not None

    def owner(self, key: bytes | None) -> str | None:
        """A name for whoever has this key, which says nothing of the key; None if it is none of them."""
        if not self._hashes:
            return None
        found = None
        given = self._hash(key or b"")
        for known in self._hashes:
            if hmac.compare_digest(given, known):
                found = known
        return found.hex() if found is not None and key is not None else None

    def _hash(self, key: bytes) -> bytes:
        return hashlib.blake2b(hashlib.sha256(key[:4096]).digest(), key=self._pepper, digest_size=32).digest()


def read_keys(text: str | None, name: str) -> list[str]:
    """Keys from "a,b", or "@FILE" with one a line. UsageError names the setting, and never a key."""
    if text is None or not text.strip():
        return []
    parts = text.split(",")
    if text.startswith("@"):
        path = Path(text[1:]).expanduser()
        try:
            parts = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name}: {path} cannot be read: {type(error).__name__}", subject=name) from None
    keys = [part.strip() for part in parts if part.strip() and not part.strip().startswith("#")]
    if not keys:
        raise UsageError(f"{name} must hold at least one key", subject=name)
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UsageError(f"{name} must hold keys of printable ASCII without spaces", subject=name)
    return keys


def presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key that a request shows: `Authorization: Bearer KEY`, in any case, or `X-Api-Key: KEY`. None if it shows
    none, or two that may differ."""
    found: list[bytes] = []
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            found.append(key.strip() if scheme.lower() == b"bearer" else b"")
        elif name == b"x-api-key":
            found.append(value.strip())
    return found[0] if found and len(set(found)) == 1 and found[0] else None
