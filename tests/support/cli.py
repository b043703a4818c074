"""The command line, run in this process: importing torch for each case would take minutes."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from aphrodite.cli.main import main


@dataclass(frozen=True)
class Run:
    returncode: int
    stdout: str
    stderr: str


def aphrodite(*words: object, stdin: str = "", **env: str) -> Run:
    """Run the command line with these words and variables; `stdin` is what comes through a pipe."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr("sys.stdin", io.StringIO(stdin))
        code = main([str(word) for word in words])
    return Run(code, out.getvalue(), err.getvalue())


def refused(run: Run, code: int, *parts: str) -> None:
    """The command ended with this code and one line that says these things."""
    assert run.returncode == code, (run.stdout, run.stderr)
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1 and run.stderr.startswith("aphrodite: error: "), run.stderr
    for part in parts:
        assert part in run.stderr, (part, run.stderr)
