"""The two ways to print a result: a document, or text."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aphrodite.cli.command import Command
from aphrodite.errors import UsageError


def document(command: Command, content: Mapping[str, Any]) -> dict[str, Any]:
    """What --json prints: the content behind the name of its schema."""
    return {"schema": command.schema, **content}


def print_document(content: Mapping[str, Any]) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(content, ensure_ascii=False))


def print_error(message: str) -> None:
    """One line on standard error."""
    print(f"aphrodite: error: {' '.join(message.splitlines())}", file=sys.stderr)


def print_note(text: str) -> None:
    """One line on standard error that is no error."""
    print(" ".join(text.splitlines()), file=sys.stderr)


def write_document(content: Mapping[str, Any], path: str) -> None:
    """The same into a file. UsageError if it cannot be written."""
    try:
        Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"out {path!r} cannot be written: {error}", subject="out") from None


def safe_for_terminal(text: str) -> str:
    """The text as it is if standard output goes to a file or program; for a terminal, without the control characters
    that would move its cursor, ring its bell or type for its user."""
    if not sys.stdout.isatty():
        return text
    return "".join(
        char if char in "\n\t" or not (char < " " or "\x7f" <= char <= "\x9f") else f"\\x{ord(char):02x}"
        for char in text
    )
