"""`aphrodite`: parse, run one command, turn errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import sys
from collections.abc import Sequence

from aphrodite._version import __version__
from aphrodite.cli.flags import Formatter, add_engine_flags, add_plugin_flag, add_sampling_flags, add_server_flags
from aphrodite.errors import AphroditeError

_EPILOG = """\
examples:
  aphrodite generate ./my-model --prompt "Once upon a time" --max-tokens 64
  aphrodite explain ./my-model --op linear
  aphrodite plugins

exit codes: 0 ok, 1 failed, 2 wrong usage, 3 does not fit in memory, 4 model cannot be loaded
environment: APHRODITE_TARGET_DEVICE (as --device), APHRODITE_PLUGINS (as --plugins), APHRODITE_CACHE (downloads)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    args = _parser().parse_args(argv)
    if args.command is None:
        _parser().print_help()
        return 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show is escaped, not an error
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = importlib.import_module(f"aphrodite.cli.{args.command}").run(args)
        sys.stdout.flush()
        return code
    except AphroditeError as error:
        return _failed(args, str(error), error.exit_code)
    except KeyboardInterrupt:
        print("aphrodite: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `aphrodite plugins | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would try once more
        return 0
    except OSError as error:  # the disk behind standard output is full, say
        return _failed(args, str(error), 1)


def _failed(args: argparse.Namespace, message: str, code: int) -> int:
    """One line of error; with --json also the one document that was promised."""
    print(f"aphrodite: error: {message}", file=sys.stderr)
    if getattr(args, "json", False):
        error = {"message": message, "exit_code": code}
        print(json.dumps({"schema": f"aphrodite.{args.command}/1", "error": error}, ensure_ascii=False))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aphrodite",
        description="An inference engine for Hugging Face compatible models.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"aphrodite {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    generate = commands.add_parser(
        "generate", help="continue prompts and print the text", formatter_class=Formatter, description=_GENERATE
    )
    generate.add_argument("model", metavar="MODEL", help="folder of a Hugging Face checkpoint, or its name on the hub")
    generate.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; may be repeated")
    generate.add_argument(
        "--token-ids", action="append", default=[], metavar="IDS", help="a prompt as token ids: 1,15,7; may be repeated"
    )
    generate.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    generate.add_argument("--quiet", action="store_true", help="no progress bars")
    add_sampling_flags(generate)
    add_engine_flags(generate)

    serve = commands.add_parser("run", help="serve a model over HTTP", formatter_class=Formatter, description=_RUN)
    serve.add_argument("model", metavar="MODEL", help="folder of a Hugging Face checkpoint, or its name on the hub")
    add_server_flags(serve)
    add_engine_flags(serve)

    explain = commands.add_parser(
        "explain",
        help="show which kernel serves each place of a model, and why",
        formatter_class=Formatter,
        description=_EXPLAIN,
    )
    explain.add_argument("model", metavar="MODEL", help="folder of a Hugging Face checkpoint, or its name on the hub")
    explain.add_argument("--op", metavar="NAME", help="only this operation, such as rms_norm or attn_paged")
    explain.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    add_engine_flags(explain)

    plugins = commands.add_parser(
        "plugins", help="list hardware plugins, their state and why", formatter_class=Formatter, description=_PLUGINS
    )
    plugins.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    add_plugin_flag(plugins)
    return parser


_GENERATE = "Continue one or more prompts. Text goes to standard output, everything else to standard error."
_RUN = "Serve a model with OpenAI's API, on http://127.0.0.1:2242 unless told otherwise. Ctrl-C ends it."
_EXPLAIN = "Plan a model for a device without loading its weights: the kernel at each site and each loser's reason."
_PLUGINS = "List installed plugins: ready, unavailable, disabled, incompatible or failed, each with its reason."

if __name__ == "__main__":
    sys.exit(main())
