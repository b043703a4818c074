"""Make the demo models from nothing: tokenizer, text, both trainings, figures, within one span of time.

    python make.py --out out --minutes 8.7

Every step is a script that can be run by itself; this one only runs them in order, shares out the time, and packs what
the package needs: OUT/demo.safetensors, OUT/demo-draft.safetensors and OUT/rest.tar.gz (all other files). It ends in
time whatever happens: a step that has no time left is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What is kept back of --minutes for what comes behind a training.
_SAVING_S = 15.0
_EVALUATION_S = 75.0
_DRAFT_SHARE = 0.2


def main() -> int:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--work", type=Path, default=Path("work"), help="for token files; may be large")
    parser.add_argument("--minutes", type=float, default=8.7, help="for everything together")
    parser.add_argument("--data-tokens", type=float, default=200e6)
    parser.add_argument("--tokens", type=float, default=350e6, help="that demo sees")
    parser.add_argument("--draft-tokens", type=float, default=150e6, help="that demo-draft sees")
    parser.add_argument("--tokenizer", type=Path, default=HERE / "tokenizer", help="made if it is not there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-draft", action="store_true")
    parser.add_argument("--train-with", default="", help="more flags for train.py, as one text")
    args = parser.parse_args()
    steps = Steps(args.minutes * 60)
    args.out.mkdir(parents=True, exist_ok=True)
    models = ["demo"] if args.without_draft else ["demo", "demo-draft"]

    if not (args.tokenizer / "tokenizer.json").is_file():
        steps.run("make_tokenizer.py", "--out", args.tokenizer, keep_s=0)
    data = args.work / "data"
    behind = _EVALUATION_S + _SAVING_S * len(models)
    steps.run("make_data.py", "--tokenizer", args.tokenizer, "--out", data, "--tokens", args.data_tokens,
              "--seed", args.seed, keep_s=behind)  # fmt: skip
    for place, model in enumerate(models):
        share = 1 - _DRAFT_SHARE if len(models) > 1 and place == 0 else 1.0
        minutes = max(0.2, (steps.left_s - behind) * share / 60)
        tokens = args.tokens if model == "demo" else args.draft_tokens
        steps.run("train.py", model, "--data", data, "--tokenizer", args.tokenizer, "--out", args.work / model,
                  "--tokens", tokens, "--minutes", f"{minutes:.2f}", "--seed", args.seed, *args.train_with.split(),
                  keep_s=_SAVING_S)  # fmt: skip
        behind -= _SAVING_S
        pack(args.work, models, args.out)
    for model in models:
        steps.run("evaluate.py", args.work / model, "--engine", "transformers", "--json",
                  args.work / model / "evaluation.json", "--show", 3, keep_s=8)  # fmt: skip
    pack(args.work, models, args.out)
    print(
        f"make.py: {steps.spent_s:.0f} s in all; {args.out} has {', '.join(sorted(p.name for p in args.out.iterdir()))}"
    )
    return 1 if steps.failed else 0


class Steps:
    """Runs scripts one after the other until the time is used up."""

    def __init__(self, seconds: float) -> None:
        self._began, self._seconds = time.monotonic(), seconds
        self.failed: list[str] = []

    @property
    def spent_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    @property
    def left_s(self) -> float:
        """Until the end."""
        return self._seconds - self.spent_s

    def run(self, script: str, *arguments: object, keep_s: float) -> None:
        """One script, which gets what is left but for `keep_s`; stopped if it takes longer."""
        limit = self.left_s - keep_s
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        if limit < 5:
            print(f"make.py: no time left for {' '.join(command[1:])}", flush=True)
            self.failed.append(script)
            return
        print(f"make.py: {self.spent_s:.0f} s: {' '.join(command[1:])}", flush=True)
        try:
            code = subprocess.run(command, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            code = -1
            print(f"make.py: {script} was stopped after {limit:.0f} s", flush=True)
        if code:
            self.failed.append(script)


def pack(work: Path, models: list[str], out: Path) -> None:
    """Bring the results into few files."""
    with tarfile.open(out / "rest.tar.gz", "w:gz") as archive:
        for model in models:
            for path in sorted((work / model).glob("*")):
                if path.name == "model.safetensors":
                    shutil.copyfile(path, out / f"{model}.safetensors")
                else:
                    archive.add(path, f"{model}/{path.name}")


if __name__ == "__main__":
    sys.exit(main())
