"""The names of cached blocks: a keyed hash chain, so that a block's name says everything that came before it."""

from __future__ import annotations

import secrets
from array import array
from hashlib import blake2b

from aphrodite.types.request import Sequence

_DIGEST_BYTES = 16
_TOKEN_BYTES = array("i").itemsize


class HashChain:
    """digest(block) = BLAKE2b(key, digest(block before) + its tokens); before the first stands the request's scope.

    The scope is the tenant's salt and the sequence's regime; adapters join it, and media their block, with the change
    that brings them. The key is drawn at random, so that nobody outside can look for two prompts of one name.
    Source: RFC 7693, section 2.9.
    """

    def __init__(self, block_size: int, key: bytes | None = None) -> None:
        self._block_size = block_size
        self._draw(key or secrets.token_bytes(32))

    def renew(self) -> None:
        """Draw another key: no name given so far will be given again."""
        self._draw(secrets.token_bytes(32))

    def _draw(self, key: bytes) -> None:
        self._key = key
        self._keyed = blake2b(digest_size=_DIGEST_BYTES, key=key)  # copied for each block: cheaper than made anew

    def extend(self, seq: Sequence, num_blocks: int) -> None:
        """Name the sequence's first `num_blocks` blocks, as far as they have no name yet. Their tokens are known."""
        digests, size, keyed = seq.digests, self._block_size, self._keyed.copy
        start = len(digests)
        if num_blocks <= start:
            return
        parent = digests[-1] if digests else self._scope(seq.request.cache_salt, seq.regime)
        tokens = array("i", seq.tokens[start * size : num_blocks * size]).tobytes()
        width = size * _TOKEN_BYTES
        append = digests.append
        for first in range(0, len(tokens), width):
            hasher = keyed()
            hasher.update(parent + tokens[first : first + width])
            parent = hasher.digest()
            append(parent)

    def _scope(self, salt: str | None, regime: int) -> bytes:
        text = regime.to_bytes(4, "little") + (b"" if salt is None else b"salt:" + salt.encode())
        return blake2b(text, digest_size=_DIGEST_BYTES, key=self._key, person=b"scope").digest()
