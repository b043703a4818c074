"""For how long a client wants the model to stay loaded: a number of seconds, or a duration such as "1h30m"."""

from __future__ import annotations

import re
from typing import Any

from aphrodite.server.errors import invalid
from aphrodite.types.shown import shown

_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:h|m|s|ms|us|\u00b5s|ns))+)", re.ASCII)
_SECONDS = re.compile(r"[+-]?\d{1,20}(?:\.\d{0,20})?", re.ASCII)


def is_unload(value: Any) -> bool:
    """Whether the model is to go at once; it stays loaded, which every other value asks for. ApiError for none."""
    if value is None:
        return False
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value == 0
    if isinstance(value, str) and (_DURATION.fullmatch(value) or _SECONDS.fullmatch(value)):
        return not re.search("[1-9]", value)
    raise invalid("keep_alive", f'keep_alive must be seconds or a duration such as "5m" or "1h30m", got {shown(value)}')
