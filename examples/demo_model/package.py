"""Put what make.py has made into the package: the two model folders under src/aphrodite_demo.

    python package.py out

Figures taken in another way than make.py's are kept out: evaluate.py writes those of the package, card.py its cards.
"""

from __future__ import annotations

import argparse
import shutil
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE / "src" / "aphrodite_demo"
MODELS = ("demo", "demo-draft")
MOST_BYTES = 16_000_000  # of a folder: it goes into a wheel and into the history of a repository


def main() -> None:
    """Unpack, and look whether all is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="make.py's --out")
    args = parser.parse_args()
    for model in MODELS:
        shutil.rmtree(PACKAGE / model, ignore_errors=True)
    with tarfile.open(args.out / "rest.tar.gz") as archive:
        archive.extractall(PACKAGE, filter="data")
    for model in MODELS:
        shutil.copyfile(args.out / f"{model}.safetensors", PACKAGE / model / "model.safetensors")
        size = sum(path.stat().st_size for path in (PACKAGE / model).iterdir())
        if size > MOST_BYTES:
            raise SystemExit(f"package.py: {PACKAGE / model} has {size:,} bytes, more than {MOST_BYTES:,}")
        print(f"{PACKAGE / model}: {size:,} bytes")


if __name__ == "__main__":
    main()
