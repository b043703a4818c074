"""The inputs of a step, as every decoder records them: from the row state and the step's plan to packed tokens."""

from __future__ import annotations

from dataclasses import dataclass

from aphrodite.ops import rows as row_ops
from aphrodite.ops.kernel import Extent
from aphrodite.program.trace import Tracer
from aphrodite.program.values import RowsRef, Value

T, S, R = Extent("T"), Extent("S"), Extent("R")


@dataclass(frozen=True)
class PackedInputs:
    """A step's tokens, packed. token_ids, positions, row_of_token [T]; cu_q [S + 1]; seq_lens, seq_rows [S];
    logit_rows [R]"""

    token_ids: Value
    positions: Value
    row_of_token: Value
    cu_q: Value
    seq_lens: Value
    logit_rows: Value
    seq_rows: Value


def record_inputs(t: Tracer, cu_q: Value | None = None, seq_lens: Value | None = None) -> PackedInputs:
    """Record step_inputs@1; its draw_rows and forced go to sampling.

    cu_q, seq_lens  where another Program reads them; absent, they are this one's own
    """
    seq_rows, num_new, num_logits, draws = (
        t.external(name, (S,), "i32") for name in ("seq_rows", "num_new", "num_logits", "draws")
    )
    draw_rows, forced = t.external("draw_rows", (R,), "i32"), t.external("forced", (R,), "i64")
    made = iter(
        t.call(
            row_ops.step_inputs,
            "step.inputs",
            sizes={"T": T, "R": R},
            cu_q=cu_q,
            seq_lens=seq_lens,
            draw_rows=draw_rows,
            forced=forced,
            rows=RowsRef(),
            seq_rows=seq_rows,
            num_new=num_new,
            num_logits=num_logits,
            draws=draws,
        )
    )
    return PackedInputs(
        token_ids=next(made),
        positions=next(made),
        row_of_token=next(made),
        cu_q=cu_q or next(made),
        seq_lens=seq_lens or next(made),
        logit_rows=next(made),
        seq_rows=seq_rows,
    )


def record_slots(
    t: Tracer,
    inputs: PackedInputs,
    *,
    group: int,
    block_size: int,
    table_width: int,
    slots: Value | None = None,
    tables: Value | None = None,
) -> tuple[Value, Value]:
    """Record step_slots@1 of one cache group -> slots [T], tables [S, table_width], which may be there already."""
    made = t.call(
        row_ops.step_slots,
        f"step.slots{group}",
        sizes={"B": table_width},
        slots=slots,
        tables=tables,
        rows=RowsRef(),
        seq_rows=inputs.seq_rows,
        row_of_token=inputs.row_of_token,
        positions=inputs.positions,
        group=group,
        block_size=block_size,
    )
    return made if slots is None or tables is None else (slots, tables)
