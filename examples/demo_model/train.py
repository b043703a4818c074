"""Train one of the demo models and write it as a Hugging Face folder.

    python train.py demo --data data --tokenizer tokenizer --out out/demo --tokens 600e6 --minutes 5.5

The learning rate falls to zero at --tokens, or at --minutes if that comes first, so that a slower machine gives a whole
model too; `training.json` says which it was. Where --tokens is reached, the run depends on the seed alone but for the
rounding of the device.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

import curve
from corpus import mix
from corpus.template import BEGIN, END, END_OF_TEXT, PAD
from muon import Optimizer
from network import SHAPES, Network, loss_of

WARMUP_STEPS = 100
DECAY_SHARE = 0.45  # the last part of the run, in which the learning rate falls
_REPORT_S = 5.0
_SAVE_S = 100.0

LossOf = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def main() -> int:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(SHAPES))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=600e6, help="tokens seen in all")
    parser.add_argument("--minutes", type=float, default=5.5, help="the longest that training may take")
    parser.add_argument("--steps", type=int, help="in place of --tokens")
    parser.add_argument("--rows", type=int, default=128, help="rows of 1024 tokens in a step")
    parser.add_argument("--held-out-rows", type=int, default=32, help="of each task")
    parser.add_argument("--matrix-rate", type=float, default=0.02)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    run = Run(args)
    run.train()
    return run.finish()


class Run:
    """One training."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.began = time.perf_counter()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(args.seed)
        torch.set_float32_matmul_precision("high")
        self.tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
        self.pad: int = self.tokenizer.token_to_id(PAD)
        self.network = Network(SHAPES[args.model]).to(self.device)
        self.size = sum(weight.numel() for weight in self.network.parameters())
        self.data = torch.from_numpy(np.load(args.data / "train.npy")).to(self.device)
        self.loss_of: LossOf = loss_of
        if self.device.type == "cuda" and not args.no_compile:
            self.compile()
        self.say("compiled" if self.loss_of is not loss_of else "not compiled")
        self.rows: list[tuple[int, float, float, float]] = []  # step, tokens, loss, seconds
        self.done_steps = 0
        self.say(f"{args.model}: {self.size:,} parameters, {len(self.data):,} rows, on {self.device}")

    def compile(self) -> None:
        """Compile the layers and the loss, and try them; where the compiler fails, go on without it."""
        try:
            for layer in self.network.model.layers:
                layer.compile()
            self.loss_of = torch.compile(loss_of)
            self.backward(self.data[: self.args.rows].long())
        except Exception as error:  # it has many ways to fail, and the text is what counts
            print(f"train.py: not compiled: {type(error).__name__}: {str(error)[:400]}", flush=True)
            weights = self.network.state_dict()
            self.network = Network(self.network.shape).to(self.device)
            self.network.load_state_dict(weights)
            self.loss_of = loss_of
        self.network.zero_grad(set_to_none=True)

    def say(self, text: str) -> None:
        """A line with the seconds since the beginning."""
        print(f"[{time.perf_counter() - self.began:6.1f}] {text}", flush=True)

    def train(self) -> None:
        """Step until the tokens or the minutes are used up."""
        args, num_rows = self.args, len(self.data)
        batch = min(args.rows, num_rows)
        per_step = batch * (self.data.shape[1] - 1)
        total = args.steps or math.ceil(args.tokens / per_step)
        optimizer = Optimizer(self.network, matrix_rate=args.matrix_rate, rate=args.rate, decay=args.decay)
        order = torch.Generator(self.device).manual_seed(args.seed)
        permutation = torch.empty(0, dtype=torch.long, device=self.device)
        losses: list[Tensor] = []
        saved, told, step, told_step = self.began, self.began, 0, 0
        while True:
            now = time.perf_counter()
            progress = max(step / total, (now - self.began) / (60 * args.minutes))
            if progress >= 1:
                break
            if len(permutation) < batch:
                permutation = torch.randperm(num_rows, generator=order, device=self.device)
            chosen, permutation = permutation[:batch], permutation[batch:]
            losses.append(self.backward(self.data[chosen].long()))
            share = min(1.0, (step + 1) / WARMUP_STEPS, (1 - progress) / DECAY_SHARE)
            optimizer.step(share, momentum=min(0.95, 0.85 + 0.1 * step / 300))
            step += 1
            if now - told > _REPORT_S or step == 1:
                loss = float(torch.stack(losses).mean())  # waits for the device
                now = time.perf_counter()
                speed = (step - told_step) * per_step / (now - told) / 1e6
                told, told_step, losses = now, step, []
                tokens = step * per_step
                self.rows.append((step, tokens, loss, now - self.began))
                self.say(
                    f"step {step} of {total}, {tokens / 1e6:.0f}M tokens, loss {loss:.4f}, "
                    f"{speed:.2f}M/s, rate x{share:.2f}"
                )
                if not math.isfinite(loss):
                    raise SystemExit("train.py: the loss is no number; lower --matrix-rate and --rate")
            if now - saved > _SAVE_S:
                saved = now
                self.save()
        if losses:
            loss = float(torch.stack(losses).mean())
            self.rows.append((step, step * per_step, loss, time.perf_counter() - self.began))
        self.done_steps = step
        end = "all of them" if step >= total else f"cut short at --minutes {args.minutes}"
        self.say(f"trained {step} steps, {step * per_step / 1e6:.1f}M tokens: {end}")

    def backward(self, rows: Tensor) -> Tensor:
        """Gradients of one batch; returns its loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = self.network(rows[:, :-1])
            loss = self.loss_of(hidden, self.network.model.embed_tokens.weight, rows[:, 1:], self.pad)
        loss.backward()
        return loss.detach()

    def finish(self) -> int:
        """Write the folder, measure the rounded weights on held-out text, write what happened."""
        self.save()
        plain = Network(self.network.shape).to(self.device)  # not compiled, since this runs once and in float32
        with torch.no_grad():
            for weight, trained in zip(plain.parameters(), self.network.parameters(), strict=True):
                weight.copy_(trained.bfloat16())
        held_out = {task: self.held_out(plain, task) for task in mix.TASKS}
        args = self.args
        report: dict[str, Any] = {
            "model": args.model,
            "parameters": self.size,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "seed": args.seed,
            "steps": self.done_steps,
            "tokens": self.rows[-1][1],
            "seconds": round(self.rows[-1][3], 1),
            "unique_tokens": int(self.data.numel()),
            "training_loss": self.rows[-1][2],
            "held_out_loss": held_out,
            "held_out_mean": sum(held_out.values()) / len(held_out),
        }
        (args.out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        with (args.out / "loss.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "tokens", "loss", "seconds"))
            writer.writerows(
                (step, tokens, f"{loss:.5f}", f"{seconds:.1f}") for step, tokens, loss, seconds in self.rows
            )
        curve.draw(
            [(tokens, loss) for _, tokens, loss, _ in self.rows],
            args.out / "loss.svg",
            f"{args.model}, {self.size:,} parameters",
        )
        self.say("held-out loss: " + ", ".join(f"{task} {loss:.4f}" for task, loss in held_out.items()))
        self.say(f"held-out mean {report['held_out_mean']:.4f}; written to {args.out}")
        return 0

    @torch.no_grad()
    def held_out(self, network: Network, task: str) -> float:
        """The loss on a task's held-out rows, in float32."""
        rows = torch.from_numpy(np.load(self.args.data / f"held_out_{task}.npy"))[: self.args.held_out_rows]
        rows = rows.to(self.device).long()
        total, count = 0.0, 0
        for part in rows.split(16):
            targets = part[:, 1:]
            number = int((targets != self.pad).sum())
            total += (
                float(loss_of(network(part[:, :-1]), network.model.embed_tokens.weight, targets, self.pad)) * number
            )
            count += number
        return total / count

    def save(self) -> None:
        """The model folder, in bfloat16."""
        folder: Path = self.args.out
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: weight.detach().bfloat16().cpu().contiguous() for name, weight in self.network.named_parameters()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        ends = {
            name: self.tokenizer.token_to_id(token)
            for name, token in (("end", END), ("text", END_OF_TEXT), ("begin", BEGIN))
        }
        ids = {"bos_token_id": ends["begin"], "eos_token_id": ends["end"], "pad_token_id": self.pad}
        _write(folder / "config.json", self.network.shape.config(ids))
        _write(
            folder / "generation_config.json",
            {
                "bos_token_id": ends["begin"],
                "eos_token_id": [ends["end"], ends["text"]],
                "pad_token_id": self.pad,
                "do_sample": True,
                "temperature": 0.7,
                "top_p": 0.95,
            },
        )
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(self.args.tokenizer / file, folder / file)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
