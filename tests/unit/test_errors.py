"""What an error says is one line that can be printed, whatever it quotes."""

from __future__ import annotations

import pytest

from aphrodite import errors
from aphrodite.errors import AphroditeError, ModelError, one_line, told


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("top_p must be in (0, 1], got 1.5", "top_p must be in (0, 1], got 1.5"),
        ("Grüße: für 12 €", "Grüße: für 12 €"),
        ("two\nlines", "two lines"),
        ("red \x1b[31m, bell \a, cr \r", "red \\x1b[31m, bell \\x07, cr \\r"),
        ("half \ud800 of a pair", "half \\ud800 of a pair"),
        ("\u202efrom right to left", "\\u202efrom right to left"),
        ("other \u2028 line ends \x85", "other \\u2028 line ends \\x85"),
        ("", ""),
    ],
)
def test_a_message_is_one_line_without_control_characters(text: str, line: str) -> None:
    assert one_line(text) == line and line.isprintable()
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, AphroditeError):
            assert str(kind(text, subject="x")) == line


def test_of_a_long_message_both_ends_are_left() -> None:
    found = str(ModelError("config.json: " + "A" * 1_000_000 + " is not supported", subject="x"))
    assert len(found) < 2200 and found.startswith("config.json: AAA") and found.endswith("AAA is not supported")
    assert f"{13 + 1_000_000 + 17 - 2000} characters more" in found


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_the_exceptions_of_others_are_told_by_class_and_text() -> None:
    assert told(ValueError("a\nb")) == "ValueError: a b"
    assert told(RuntimeError()) == "RuntimeError"
    assert told(UnprintableError()) == "UnprintableError"
