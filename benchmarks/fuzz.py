"""Ask a server for all that its OpenAPI document says, and for much that it does not.

    python benchmarks/fuzz.py [--python PYTHON] [--examples 50] [--mutations 2000] [--seed N] [--out FILE]

PYTHON has the packages of this project (default: this one); this one's environment has schemathesis. `aphrodite run`
of a small model; schemathesis makes up to so many requests an operation from the document's schemas and against them,
then come requests with changed bytes. Wrong are answers that the document does not describe, any status of 500 or above
but 503 and 504, an answer that is cut, a traceback in the log, and books that do not balance afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mutations import mutate
from served import Server, circumstances

# Not checked: whether what fits the schemas is taken (bounds stand there in words), and keys (there are none).
LEFT_OUT = "positive_data_acceptance,negative_data_rejection,ignored_auth,unsupported_method"
_WAIT_S = 120  # without max_tokens and with n an answer may have tens of thousands of tokens
_FLAGS = ("--num-blocks", "600", "--max-num-seqs", "64")


def from_schemas(port: int, examples: int, seed: int, folder: str) -> tuple[int, int]:
    """schemathesis' exit code, and how many requests it made. What it leaves behind is left in the folder."""
    command = Path(sys.executable).parent / "schemathesis"
    asked = ["run", f"http://127.0.0.1:{port}/openapi.json", "--max-examples", str(examples), "--seed", str(seed)]
    asked += ["--request-timeout", str(_WAIT_S), "--max-response-time", str(_WAIT_S)]
    checks = ["--checks", "all", "--exclude-checks", LEFT_OUT, "--phases", "examples,coverage,fuzzing"]
    environment = {**os.environ, "SCHEMATHESIS_REPORT": "false"}
    text = ""
    call = [command, *asked, *checks]
    with subprocess.Popen(call, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        for line in popen.stdout:
            print(line, end="", flush=True)
            text += line
    made = re.search(r"(\d[\d,]*) generated", text)
    return popen.returncode, int(made[1].replace(",", "")) if made else 0


def bad(seen: Counter[str]) -> dict[str, int]:
    """What became of requests that must become of none."""
    return {what: n for what, n in seen.items() if what == "cut" or (what[0] == "5" and what not in ("503", "504"))}


def main() -> int:
    """Run it; the exit code says whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {**circumstances(), "seed": args.seed}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        server = Server(*_FLAGS, log=log, python=args.python)
        try:
            asyncio.run(server.ready())
            began = time.monotonic()
            code, made = from_schemas(server.port, args.examples, args.seed, folder)
            found["schemathesis"] = {"requests": made, "exit_code": code, "took_s": round(time.monotonic() - began, 1)}
            began = time.monotonic()
            seen = asyncio.run(mutate(server.port, args.mutations, random.Random(args.seed)))
            took_s = round(time.monotonic() - began, 1)
            found["mutations"] = {"requests": seen.total(), **dict(sorted(seen.items())), "took_s": took_s}
            wrong = asyncio.run(server.wrong())
        finally:
            exit_code = server.end()
        tracebacks = log.read_text().count("Traceback")
    wrong += [f"{count} requests with changed bytes: {what}" for what, count in bad(seen).items()]
    wrong += ["schemathesis found something"] if code else []
    wrong += [f"{tracebacks} tracebacks in the log"] if tracebacks else []
    wrong += [f"the server ended with {exit_code}"] if exit_code else []
    print(json.dumps(found, indent=1), "\n".join(wrong) or "nothing is wrong", sep="\n")
    if args.out:
        document = {"schema": "aphrodite.bench.fuzz/1", **found, "wrong": wrong}
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
