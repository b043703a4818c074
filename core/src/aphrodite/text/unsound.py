"""What the tokenizers library does not survive in a file: it ends the process, or counts for minutes, where what it
takes for granted is not so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aphrodite.errors import ModelError

_MOST_ID = (1 << 24) - 1  # its tables are written id by id, those that no token has too
# What may be wrong, seen without reading all of a large file; only then it is read.
_LARGE = re.compile(rb":\s*\d{8,}\s*[,}]")
_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')


def refuse_unsound(path: Path, text: bytes) -> None:
    """ModelError for a tokenizer.json with token ids out of all bounds, or merges that do not begin with the prefix
    that is to be cut from them. Says nothing of files that are no tokenizer at all."""
    if not (_LARGE.search(text) or _PREFIX.search(text)):
        return
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return
    model = data.get("model") if isinstance(data, Mapping) else None
    if not isinstance(model, Mapping):
        return
    for name, token in _ids(model.get("vocab"), data.get("added_tokens")):
        if type(token) is int and token > _MOST_ID:
            raise ModelError(f"{path}: token {name!r} has the id {token}, of at most {_MOST_ID}", subject=str(name))
    prefix, merges = model.get("continuing_subword_prefix"), model.get("merges")
    if isinstance(prefix, str) and prefix and isinstance(merges, list):
        for merge in merges:
            parts = merge.split(" ") if isinstance(merge, str) else merge
            second = parts[1] if isinstance(parts, list) and len(parts) == 2 else None
            if isinstance(second, str) and not second.startswith(prefix):
                raise ModelError(
                    f"{path}: the merge {merge!r} must have {prefix!r} (continuing_subword_prefix) before its second "
                    "part",
                    subject="continuing_subword_prefix",
                )


def _ids(vocab: Any, added: Any) -> list[tuple[Any, Any]]:
    found = list(vocab.items()) if isinstance(vocab, Mapping) else []
    listed = added if isinstance(added, list) else []
    return found + [(item.get("content"), item.get("id")) for item in listed if isinstance(item, Mapping)]
