"""The sampling Program: draw, commit to the row state, log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.ops import logits as logit_ops
from aphrodite.ops import rows as row_ops
from aphrodite.ops import sampling as ops
from aphrodite.ops.kernel import Extent
from aphrodite.program.trace import Program, Tracer
from aphrodite.program.values import RowsRef
from aphrodite.types.sampling_params import MAX_LOGPROBS
from aphrodite.types.step import SchedulerOutput

S, R = Extent("S"), Extent("R")


@dataclass(frozen=True)
class Variant:
    """Which sampling Program a step needs.

    random        whether some row draws with a temperature above 0
    num_logprobs  likeliest tokens reported beside the chosen one: MAX_LOGPROBS, 0, or -1 for no log-probabilities
    truncated, edited, penalised  the stages that some row needs; in each, the other rows are left as they are
    """

    random: bool
    num_logprobs: int
    truncated: bool = False
    edited: bool = False
    penalised: bool = False

    @classmethod
    def of(cls, plan: SchedulerOutput) -> Variant:
        """The variant for a step. Widths are few, so that Programs are."""
        return cls(
            plan.any_random,
            min(plan.num_logprobs, 0) if plan.num_logprobs <= 0 else MAX_LOGPROBS,
            truncated=plan.any_truncated,
            edited=plan.any_edited,
            penalised=plan.any_penalised,
        )

    @classmethod
    def fullest(cls) -> Variant:
        """The variant with every stage."""
        return cls(True, MAX_LOGPROBS, truncated=True, edited=True, penalised=True)

    @property
    def name(self) -> str:
        """For reports."""
        stages = [stage for stage in ("truncated", "edited", "penalised") if getattr(self, stage)]
        return f"sampling({', '.join(['random' if self.random else 'greedy', *stages])}, logprobs={self.num_logprobs})"

    def width(self, vocab_size: int) -> int:
        """Columns of the log-probabilities, the chosen token's included; 0 if there are none."""
        return 1 + min(self.num_logprobs, vocab_size)


def record(variant: Variant, *, vocab_size: int, dtype: str) -> Program:
    """logits [R, V] and the step's plan in; ids [R], and lp, top_ids [R, 1 + n], rank [R] out.

    Stages that change logits write `shaped`, a float32 copy that the draw reads: `logits` stays as the model gave it,
    and its log-probabilities are what is reported. All variants share the copy's memory.
    """
    t = Tracer(variant.name)
    rows = RowsRef()
    logits = t.external("logits", (R, vocab_size), dtype)
    draw_rows, forced = t.external("draw_rows", (R,), "i32"), t.external("forced", (R,), "i64")
    seq_rows, num_new = t.external("seq_rows", (S,), "i32"), t.external("num_new", (S,), "i32")
    ids = t.external("ids", (R,), "i64")
    draw = {}
    if variant.random:
        names = ("temperature", "seed", "position", "child")
        values = t.call(row_ops.draw_inputs, "sampling.inputs", rows=rows, draw_rows=draw_rows)
        draw = dict(zip(names, values, strict=True))
        if variant.truncated:
            limits = t.call(row_ops.draw_limits, "sampling.limits", rows=rows, draw_rows=draw_rows)
            draw |= dict(zip(("top_k", "top_p", "min_p"), limits, strict=True))
    stages = [logit_ops.edit_logits] * variant.edited + [logit_ops.penalise_logits] * variant.penalised
    shaped = logits
    for stage in stages:
        source = shaped
        if shaped is logits:
            shaped = t.external("shaped", (R, vocab_size), "f32")
        site = f"sampling.{stage.name.partition('_')[0]}"
        t.call(stage, site, out=shaped, logits=source, rows=rows, draw_rows=draw_rows)
    t.call(ops.sample, "sampling.draw", ids=ids, logits=shaped, forced=forced, **draw)
    t.call(
        row_ops.commit_rows,
        "sampling.commit",
        rows=rows,
        ids=ids,
        draw_rows=draw_rows,
        seq_rows=seq_rows,
        num_new=num_new,
    )
    if width := variant.width(vocab_size):
        t.call(
            ops.logprobs,
            "sampling.logprobs",
            lp=t.external("lp", (R, width), "f32"),
            ids=t.external("top_ids", (R, width), "i64"),
            rank=t.external("rank", (R,), "i64"),
            logits=logits,
            chosen=ids,
        )
    return t.finish()
