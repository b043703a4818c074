"""Ask a server for all that its OpenAPI document says, and for much that it does not.

    python benchmarks/fuzz.py [--python PYTHON] [--examples 50]

PYTHON has the packages of this project, aphrodite-demo among them (default: this one); this one's environment has
schemathesis, which asks `aphrodite run demo-draft` for what the schemas allow and for what they do not. Found
are answers that the document does not describe and any status of 500 or above but 503 and 504. Exit code as
schemathesis'.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

# Not checked: whether what fits the schemas is taken (bounds stand there in words), and keys (there are none).
LEFT_OUT = "positive_data_acceptance,negative_data_rejection,ignored_auth,unsupported_method"


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--examples", type=int, default=50)
    args = parser.parse_args()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.close()
        serve = [args.python, "-m", "aphrodite.cli.main", "run", "demo-draft", "--port", str(port), "--no-log-requests"]
        server = subprocess.Popen(serve)
        try:
            wait_ready(port)
            command = Path(sys.executable).parent / "schemathesis"
            asked = ["run", f"http://127.0.0.1:{port}/openapi.json", "--max-examples", str(args.examples)]
            checks = ["--checks", "all", "--exclude-checks", LEFT_OUT, "--phases", "examples,coverage,fuzzing"]
            code = subprocess.run(
                [command, *asked, *checks], env={**os.environ, "SCHEMATHESIS_REPORT": "false"}
            ).returncode
            wait_ready(port)
            return code
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def wait_ready(port: int) -> None:
    """Return once the server is."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready"):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the server is not ready within 30 s")


if __name__ == "__main__":
    sys.exit(main())
