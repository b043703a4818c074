"""Row updates land where `Rows.view` reads them; staging memory is not used again before its time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from aphrodite.errors import CapacityError
from aphrodite.ops.kernel import Dims
from aphrodite.ops.rows import write_rows
from aphrodite.platform.layout import Rows
from aphrodite.runner.programs import Programs, record_updates, record_zeroing
from aphrodite.runner.rows import RowTable
from aphrodite.runner.runner import PLAN_INPUTS, ModelRunner
from aphrodite.runner.staging import Ring
from aphrodite.sampling.program import record
from aphrodite.types.shaping import Shaping
from aphrodite.types.step import NewBlocks, NewRow, SchedulerOutput
from tests.unit.program.parts import BOUNDS, MAX_LEN, Memory, cpu, forward, planner


def table(**changes: int) -> RowTable:
    sizes = {"num_rows": 4, "max_len": 20, "table_width": 5, "num_groups": 2, "vocab_size": 70} | changes
    return RowTable(**sizes)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("max_len", [1, 20, 21])
def test_fields_do_not_overlap_and_64_bit_ones_are_aligned(groups: int, max_len: int) -> None:
    made = table(num_groups=groups, max_len=max_len)
    used: list[int] = []
    for field in made.fields:
        words = field.width * (2 if field.dtype == "i64" else 1)
        used += range(field.column, field.column + words)
        assert field.dtype != "i64" or field.column % 2 == 0
    assert len(set(used)) == len(used) and max(used) < made.width and made.width % 2 == 0
    assert made.shape == (5, made.width), "one row is spare"
    assert {f.name for f in made.fields} == {
        "seed", "num_tokens", "num_computed", "temperature", "child", "tokens", *(f"table{g}" for g in range(groups)),
        "num_prompt", "top_k", "top_p", "min_p", "repetition", "frequency", "presence", "min_len", "num_stops",
        "num_biases", "num_bad_tokens", "has_allowed", "stops", "bias_ids", "biases", "bad_ids", "bad_places",
        "allowed",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_updates_land_where_views_read_them(seed: int) -> None:
    rng, made = random.Random(seed), table()
    state = torch.full(made.shape, -1, dtype=torch.int32)
    rows = Rows(state, made.fields)
    numbers = rng.sample(range(4), rng.randint(1, 4))
    new_rows, new_blocks = [], []
    for row in numbers:
        tokens = tuple(rng.randint(0, 2**31 - 1) for _ in range(rng.randint(1, 20)))
        new_rows.append(
            NewRow(row, tokens, rng.randint(0, 5), rng.random() * 2, rng.randint(0, 2**63 - 1), rng.randint(0, 7))
        )
        start = rng.randint(0, 3)
        blocks = tuple(rng.randint(1, 99) for _ in range(rng.randint(1, 5 - start)))
        new_blocks.append(NewBlocks(row, rng.randint(0, 1), start, blocks))
    index, values = made.updates(new_rows, new_blocks)
    assert index.dtype == values.dtype == np.int32 and len(index) == len(values)
    assert len(np.unique(index)) == len(index), "distinct, so that one scatter may write them in any order"
    assert index.min() >= 0 and index.max() < 4 * made.width, "the spare row is not the host's"
    write_rows.reference(rows, torch.from_numpy(index), torch.from_numpy(values))
    for new in new_rows:
        assert rows.view("seed")[new.row] == new.seed
        assert rows.view("temperature")[new.row] == np.float32(new.temperature)
        assert rows.view("num_tokens")[new.row] == len(new.tokens)
        assert rows.view("num_computed")[new.row] == new.num_computed and rows.view("child")[new.row] == new.child
        assert tuple(rows.view("tokens")[new.row, : len(new.tokens)].tolist()) == new.tokens
    for added in new_blocks:
        line = rows.view(f"table{added.group}")[added.row]
        assert tuple(line[added.start : added.start + len(added.blocks)].tolist()) == added.blocks
    for row in set(range(5)) - set(numbers):
        assert (state[row] == -1).all(), "nobody else's row is written"


def test_a_shaping_lands_where_views_read_it_and_a_plain_one_turns_all_of_it_off() -> None:
    made = table()
    rows = Rows(torch.full(made.shape, -1, dtype=torch.int32), made.fields)
    shaping = Shaping(
        num_prompt=3, top_k=7, top_p=0.5, min_p=0.25, repetition=1e300, frequency=-0.5, presence=1.5, min_len=9,
        stops=(2, 69), biases=((5, -1.5), (64, 100.0)), allowed=(0, 31, 32, 69), bad_words=((8,), (1, 2, 3), (4, 5)),
    )  # fmt: skip
    write_rows.reference(rows, *map(torch.from_numpy, made.updates([NewRow(2, (1,), 0, 0.5, 1, 0, shaping)], [])))

    def line(name: str, count: int) -> list[Any]:
        return rows.view(name)[2, :count].tolist()

    for name in ("num_prompt", "top_k", "top_p", "min_p", "frequency", "presence", "min_len"):
        assert rows.view(name)[2] == getattr(shaping, name)
    assert rows.view("repetition")[2] == torch.finfo(torch.float32).max, "as near as the device comes to it"
    counts = [rows.view(name)[2].item() for name in ("num_stops", "num_biases", "num_bad_tokens", "has_allowed")]
    assert counts == [2, 2, 6, 1]
    assert (line("stops", 2), line("bias_ids", 2), line("biases", 2)) == ([2, 69], [5, 64], [-1.5, 100.0])
    assert line("bad_ids", 6) == [8, 1, 2, 3, 4, 5] and line("bad_places", 6) == [1, -2, -1, 3, -1, 2]
    bits = line("allowed", 3)
    assert [token for token in range(96) if bits[token // 32] >> (token % 32) & 1] == [0, 31, 32, 69]

    write_rows.reference(rows, *map(torch.from_numpy, made.updates([NewRow(2, (1,), 0, 0.5, 1, 0)], [])))
    off = {"num_stops": 0, "num_biases": 0, "num_bad_tokens": 0, "has_allowed": 0, "top_k": 0, "top_p": 1, "min_p": 0,
           "repetition": 1, "frequency": 0, "presence": 0}  # fmt: skip
    assert {name: rows.view(name)[2].item() for name in off} == off
    assert (rows.state[[0, 1, 3, 4]] == -1).all()


def test_no_news_is_no_update() -> None:
    index, values = table().updates((), ())
    assert len(index) == len(values) == 0


def test_a_state_too_large_for_32_bit_indices_is_refused() -> None:
    with pytest.raises(CapacityError, match="lower max_num_seqs or max_model_len"):
        table(num_rows=10_000, max_len=1_000_000)


# ---- the ring -------------------------------------------------------------------------------------------------------


class Mark:
    """An event that says when it is waited for."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number, self.log = number, log

    def record(self, stream: Any) -> None:
        self.log.append(f"record {self.number}")

    def done(self) -> bool:
        return False

    def wait(self) -> None:
        self.log.append(f"wait {self.number}")


def test_a_slot_is_used_again_only_behind_the_event_of_its_last_use() -> None:
    log: list[str] = []
    made = iter(range(9))
    events = iter(range(9))

    class Device:
        @staticmethod
        def event() -> Mark:
            return Mark(next(events), log)

    class Platform:
        device = Device

    ring = Ring(3, lambda: next(made), Platform())  # type: ignore[arg-type]
    seen = []
    for _ in range(7):
        slot, event = ring.take()
        event.record(None)  # type: ignore[arg-type]
        seen.append(slot)
    assert seen == [0, 1, 2, 0, 1, 2, 0]
    assert log[:3] == ["record 0", "record 1", "record 2"], "fresh slots are waited for by nobody"
    assert log[3:] == ["wait 0", "record 0", "wait 1", "record 1", "wait 2", "record 2", "wait 0", "record 0"]


# ---- the runner -----------------------------------------------------------------------------------------------------


def runner(memory: Memory) -> tuple[ModelRunner, Any, dict[str, int]]:
    """A runner over a tiny decoder, put together as the engine is; counts how often updates are replayed."""
    platform, bounds = cpu(), BOUNDS
    inputs, edits = (platform.memory.zeros((n, w), "i32") for n, w in ((len(PLAN_INPUTS), bounds.S), (2, bounds.U)))
    shared: dict[str, Any] = dict(zip(PLAN_INPUTS, inputs, strict=True)) | {"index": edits[0], "values": edits[1]}

    def bind(program: Any) -> Any:
        plan = planner().plan(program)
        for name, value in program.externals.items():
            shared.setdefault(name, platform.memory.zeros(value.sizes(bounds), value.dtype))
        from aphrodite.program.replay import BoundProgram

        externals = {name: shared[name] for name in program.externals}
        return BoundProgram(plan, platform, memory.stream, resolve=memory.resolve, externals=externals)

    counts = {"updates": 0}
    updates = bind(record_updates())
    replay = updates.replay

    def counted(dims: Dims) -> None:
        counts["updates"] += 1
        assert 0 < dims.U <= bounds.U
        replay(dims)

    updates.replay = counted
    programs = Programs(
        bind(forward()[1]),
        updates,
        [bind(record_zeroing([]))],
        lambda variant: bind(record(variant, vocab_size=50, dtype="f32")),
    )
    made = ModelRunner(
        platform, memory.stream, programs, memory.table, inputs, edits, bounds, pad=False, steps_in_flight=0
    )
    return made, shared, counts


def plan(
    rows: list[NewRow], blocks: list[NewBlocks], members: list[tuple[int, int, int, int]], *, random: bool = False
) -> SchedulerOutput:
    columns = np.array(members, np.int32).T
    return SchedulerOutput(
        tuple(rows), tuple(blocks), columns[0], columns[0] * 0, columns[1], columns[2], columns[3],
        max_k=int(columns[1].max()), num_logprobs=-1, any_random=random,
    )  # fmt: skip


def test_long_prompts_take_several_uploads_and_arrive_whole() -> None:
    memory = Memory()
    made, _, counts = runner(memory)
    prompts = [tuple((7 * i + row) % 50 for i in range(MAX_LEN - 1)) for row in range(4)]
    rows = [NewRow(row, tokens, 0, 0.0, row, 0) for row, tokens in enumerate(prompts)]
    blocks = [NewBlocks(row, 0, 0, tuple(range(8 * row + 1, 8 * row + 3))) for row in range(4)]
    words = sum(18 + len(r.tokens) for r in rows) + sum(len(b.blocks) for b in blocks)
    made.submit(plan(rows, blocks[:3], [(0, 4, 0, 0), (1, 4, 0, 0), (2, 4, 0, 0)]))
    assert counts["updates"] == -(-(words - 2) // BOUNDS.U) >= 2
    for row, tokens in enumerate(prompts):
        assert tuple(memory.rows.view("tokens")[row, : len(tokens)].tolist()) == tokens
        assert memory.rows.view("num_tokens")[row] == len(tokens) and memory.rows.view("seed")[row] == row


def test_a_step_pads_its_plan_and_leaves_rows_that_take_no_part_alone() -> None:
    memory = Memory()
    made, shared, _ = runner(memory)
    rows = [NewRow(row, (row + 1, row + 2), 0, 0.0, 0, 0) for row in range(4)]
    blocks = [NewBlocks(row, 0, 0, (row + 1,)) for row in range(4)]
    full = plan(rows, blocks, [(row, 2, 1, 1) for row in range(4)])
    first = made.sample(made.submit(full)).result()
    assert first.tokens.shape == (4,) and first.logprobs is None
    before = memory.rows.state.clone()
    second = made.sample(made.submit(plan([], [], [(2, 1, 1, 1)]))).result()
    assert shared["seq_rows"].tolist() == [2, -1, -1, -1] and shared["num_new"].tolist() == [1, 0, 0, 0]
    changed = (memory.rows.state != before).any(1).nonzero().flatten().tolist()
    assert set(changed) <= {2, 4} and 2 in changed, "row 4 is the spare one"
    assert memory.rows.view("num_tokens")[2] == 4 and memory.rows.view("num_computed")[2] == 3
    assert memory.rows.view("tokens")[2, :4].tolist() == [3, 4, first.tokens[2], second.tokens[0]]
    third = made.submit(plan([], [], [(2, 1, 1, 1)]))
    pending = made.sample(third)
    assert pending.done() and third.dims == Dims(T=1, S=1, R=1, max_q=1, max_k=1)
    made.close()


def test_results_are_copies_that_the_next_step_does_not_overwrite() -> None:
    memory = Memory()
    made, _, _ = runner(memory)
    rows, blocks = [NewRow(0, (5,), 0, 9.0, 0, 0)], [NewBlocks(0, 0, 0, (1, 2, 3))]
    results = []
    kept = []
    for number in range(6):
        step = plan(rows if number == 0 else [], blocks if number == 0 else [], [(0, 1, 1, 1)], random=True)
        result = made.sample(made.submit(step)).result()
        results.append(result.tokens)
        kept.append(result.tokens.tolist())
    assert len({tokens[0] for tokens in kept}) > 3, "at such a temperature the draws differ"
    assert [tokens.tolist() for tokens in results] == kept
    assert memory.rows.view("tokens")[0, 1:7].tolist() == [tokens[0] for tokens in kept]
