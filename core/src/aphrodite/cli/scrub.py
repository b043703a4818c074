"""Taking out of a report what nobody else should read: secrets, and who the user is."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REMOVED = "<removed>"
USER = "<user>"
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_LEAST = 6  # characters of a secret's value: shorter ones would hit innocent text
_TOKENS = re.compile(r"\b(?:hf_|sk-|gh[pousr]_|xox[abp]-)[\w-]{8,}")
_URL_USER = re.compile(r"(?<=://)[^/\s@]+@")
_HOMES = re.compile(r"(/(?:home|Users)/|\\Users\\)([^/\\\s:,;'\"]+)")


class Scrubber:
    """Knows what to take out.

    environment  of the process: values of variables whose name speaks of a secret go, wherever they turn up
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        values = [value for name, value in environment.items() if self.is_secret(name)]
        parts = {part for value in values for part in (value, *re.split(r"[,;\s]+", value)) if len(part) >= _LEAST}
        self._secrets = sorted(parts, key=len, reverse=True)  # one may hold another, as a list of keys does
        self._home, self._user = _who()

    @staticmethod
    def is_secret(name: str) -> bool:
        """Whether a variable's name speaks of a secret."""
        return _SECRET_NAME.search(name) is not None

    def all(self, value: Any) -> Any:
        """The same with every text in it cleaned, keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.all(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.all(item) for item in value]
        return value

    def text(self, text: str) -> str:
        """A text without secrets, addresses' users, home folders and the user's name in paths."""
        for secret in self._secrets:
            text = text.replace(secret, REMOVED)
        text = _TOKENS.sub(REMOVED, text)
        text = _URL_USER.sub(f"{REMOVED}@", text)
        if self._home:
            text = re.sub(rf"(?<![\w./\\-]){re.escape(self._home)}(?![\w.-])", "~", text)
        text = _HOMES.sub(rf"\1{USER}", text)
        if self._user:
            text = re.sub(rf"(?<=[/\\]){re.escape(self._user)}(?=[/\\]|$)", USER, text)
        return text


def _who() -> tuple[str, str]:
    """The home folder and the user's name; "" for what nobody knows, as in a container without a passwd entry."""
    try:
        home = str(Path.home())
    except RuntimeError:
        home = ""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = ""
    return (home if len(home) > 1 else ""), user
