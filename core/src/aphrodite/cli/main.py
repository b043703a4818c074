"""`aphrodite`: parse, run one command, turn errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from aphrodite._version import __version__
from aphrodite.cli import help as pages
from aphrodite.cli.command import Call, Command
from aphrodite.cli.commands import COMMANDS
from aphrodite.cli.output import print_document, print_error
from aphrodite.cli.parse import Words, call, find_command
from aphrodite.errors import AphroditeError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show is escaped, not an error
            stream.reconfigure(errors="backslashreplace")
    schema = None
    try:
        try:
            if not words or words[0].startswith("-"):
                return _alone(words)
            if (family := _family(words)) and words[1:2] in ([], ["-h"], ["--help"]):
                return _print_help(words[2:], family)
            command, rest = find_command(words)
            schema = command.schema if "--json" in rest else None
            return _command(command, rest)
        except AphroditeError as error:
            return _failed(schema, str(error), error.exit_code)
        except OSError as error:  # the disk behind standard output is full, say
            if isinstance(error, BrokenPipeError):
                raise
            return _failed(schema, str(error), 1)
    except KeyboardInterrupt:
        print("aphrodite: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `aphrodite plugins | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would try once more
        return 0


def _open_streams() -> None:
    """Standard streams that we were started without go nowhere: else their numbers would be those of the next files
    that are opened, a client's connection for one, and what is printed would end there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _alone(words: Sequence[str]) -> int:
    """`aphrodite`, with no command."""
    if not words:
        print(pages.overview(), end="")
        return 0
    flag, sign, topic = words[0].partition("=")
    if flag == "--version" and len(words) == 1:
        print(f"aphrodite {__version__}")
        return 0
    if flag not in ("-h", "--help"):
        raise UsageError(f"a command comes first, got {words[0]!r}; see `aphrodite --help`", subject=words[0])
    return _print_help([topic] if sign else words[1:], COMMANDS)


def _family(words: Sequence[str]) -> tuple[Command, ...]:
    """The commands that begin with this word and need another."""
    return tuple(command for command in COMMANDS if command.name.startswith(f"{words[0]} "))


def _print_help(topic: Sequence[str], commands: Sequence[Command]) -> int:
    """The overview, or the page of a topic."""
    if topic:
        print(pages.topic_page(" ".join(topic), commands), end="")
    elif commands is COMMANDS:
        print(pages.overview(), end="")
    else:
        print(pages.family_page(commands), end="")
    return 0


def _command(command: Command, given: Sequence[str]) -> int:
    words = Words(command, given)
    if words.help_topic is not None:
        topic = words.help_topic
        print(pages.topic_page(topic, [command]) if topic else pages.first_page(command), end="")
        return 0
    asked = call(command, words)
    with _logging_to_stderr(asked):
        module = "dump" if asked.common.dump_config else command.module
        if command.takes_model and not asked.model and module != "dump":
            raise UsageError(
                f"{command.name} needs a MODEL: the folder of a Hugging Face checkpoint, or its name on the hub",
                subject="model",
            )
        code: int = importlib.import_module(f"aphrodite.cli.{module}").run(asked)
    sys.stdout.flush()
    return code


@contextlib.contextmanager
def _logging_to_stderr(asked: Call) -> Iterator[None]:
    """The program is ours here, so its log is too: a line each on standard error."""
    log, handler = logging.getLogger("aphrodite"), logging.StreamHandler()
    handler.setFormatter(_OneLine("aphrodite: %(levelname)s: %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(asked.log_level.upper())
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


class _OneLine(logging.Formatter):
    """ "aphrodite: warning: ...", as errors read."""

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


def _failed(schema: str | None, message: str, code: int) -> int:
    """One line of error; with --json also the one document that was promised."""
    print_error(message)
    if schema is not None:
        print_document({"schema": schema, "error": {"message": message, "exit_code": code}})
    return code


if __name__ == "__main__":
    sys.exit(main())
