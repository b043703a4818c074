"""The device's own row state against a model in plain Python: what a step reads, and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aphrodite.ops.rows import commit_rows, draw_inputs, step_inputs, step_slots, table_positions, write_rows
from aphrodite.platform.layout import RowField, Rows

NUM_ROWS, MAX_LEN, WIDTH, BLOCK = 5, 24, 6, 4  # block tables of 6 blocks of 4 tokens
FIELDS = (
    RowField("seed", "i64", 0, 1),
    RowField("num_tokens", "i32", 2, 1),
    RowField("num_computed", "i32", 3, 1),
    RowField("temperature", "f32", 4, 1),
    RowField("child", "i32", 5, 1),
    RowField("table0", "i32", 6, WIDTH),
    RowField("table1", "i32", 6 + WIDTH, WIDTH),
    RowField("tokens", "i32", 6 + 2 * WIDTH, MAX_LEN + 2),
)
COLUMNS = 6 + 2 * WIDTH + MAX_LEN + 2


@dataclass
class Row:
    """One request, as the scheduler thinks of it."""

    tokens: list[int]
    num_computed: int
    table: list[int]
    seed: int = 0
    temperature: float = 0.0
    child: int = 0


@dataclass
class Member:
    """A row's part in a step; row -1 is padding."""

    row: int
    num_new: int = 0
    num_logits: int = 0
    draws: int = 0


@dataclass
class Step:
    rows: dict[int, Row]
    members: list[Member]
    padding: tuple[int, int, int] = (0, 0, 0)  # more tokens, sequences, logit rows than there are

    def state(self) -> Rows:
        rows = Rows(torch.zeros(NUM_ROWS + 1, COLUMNS, dtype=torch.int32), FIELDS)
        rows.view("tokens").fill_(-99)  # stale: whatever an earlier request left
        rows.view("table0").fill_(2)
        rows.view("table0")[NUM_ROWS] = 0
        rows.view("tokens")[NUM_ROWS] = 77  # nor is the spare row clean
        rows.view("num_computed")[NUM_ROWS] = 3
        rows.view("temperature")[NUM_ROWS] = 0.7
        for number, row in self.rows.items():
            rows.view("seed")[number] = row.seed
            rows.view("num_tokens")[number] = len(row.tokens)
            rows.view("num_computed")[number] = row.num_computed
            rows.view("temperature")[number] = row.temperature
            rows.view("child")[number] = row.child
            rows.view("table0")[number, : len(row.table)] = torch.tensor(row.table, dtype=torch.int32)
            rows.view("tokens")[number, : len(row.tokens)] = torch.tensor(row.tokens, dtype=torch.int32)
        return rows

    def plan(self) -> dict[str, torch.Tensor]:
        padded = [*self.members, *[Member(-1)] * self.padding[1]]
        columns = {
            "seq_rows": [m.row for m in padded],
            "num_new": [m.num_new for m in padded],
            "num_logits": [m.num_logits for m in padded],
            "draws": [m.draws for m in padded],
        }
        return {name: torch.tensor(values, dtype=torch.int32) for name, values in columns.items()}

    def outputs(self) -> dict[str, torch.Tensor]:
        t = sum(m.num_new for m in self.members) + self.padding[0]
        r = sum(m.num_logits for m in self.members) + self.padding[2]
        s = len(self.members) + self.padding[1]
        i64, i32 = torch.int64, torch.int32
        sizes = {
            "token_ids": (t, i64),
            "positions": (t, i64),
            "row_of_token": (t, i32),
            "cu_q": (s + 1, i32),
            "seq_lens": (s, i32),
            "logit_rows": (r, i64),
            "draw_rows": (r, i32),
            "forced": (r, i64),
        }
        return {name: torch.full((size,), -55, dtype=dtype) for name, (size, dtype) in sizes.items()}

    def model(self) -> dict[str, list[int]]:
        """The same outputs, one token at a time."""
        out: dict[str, list[int]] = {name: [] for name in self.outputs()}
        out["cu_q"].append(0)
        for m in [*self.members, *[Member(-1)] * self.padding[1]]:
            start = len(out["token_ids"])
            row = self.rows.get(m.row)
            if row is None:
                out["seq_lens"].append(0)
            else:
                for position in range(row.num_computed, row.num_computed + m.num_new):
                    alive = row.tokens[position] >= 0
                    out["token_ids"].append(row.tokens[position] if alive else -1)
                    out["positions"].append(position if alive else 0)
                    out["row_of_token"].append(m.row if alive else -1)
                for rank in range(m.num_logits):
                    offset = m.num_new - m.num_logits + rank
                    after = row.num_computed + offset + 1
                    drawn = bool(m.draws) and rank == m.num_logits - 1
                    out["logit_rows"].append(start + offset)
                    out["draw_rows"].append(m.row if drawn else -1)
                    out["forced"].append(-1 if drawn or after >= len(row.tokens) else row.tokens[after])
                out["seq_lens"].append(row.num_computed + m.num_new)
            out["cu_q"].append(len(out["token_ids"]))
        out["token_ids"] += [-1] * self.padding[0]
        out["positions"] += [0] * self.padding[0]
        out["row_of_token"] += [-1] * self.padding[0]
        out["logit_rows"] += [0] * self.padding[2]
        out["draw_rows"] += [-1] * self.padding[2]
        out["forced"] += [-1] * self.padding[2]
        return out


@st.composite
def steps(draw: Any) -> Step:
    rows: dict[int, Row] = {}
    members: list[Member] = []
    numbers = draw(st.permutations(range(NUM_ROWS)))[: draw(st.integers(0, NUM_ROWS))]
    for number in numbers:
        tokens = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=MAX_LEN))
        computed = draw(st.integers(0, len(tokens) - 1))
        if draw(st.integers(0, 5)) == 0:
            tokens[-1] = -1  # its last draw was no number
        num_new = draw(st.integers(1, len(tokens) - computed))
        whole = computed + num_new == len(tokens)
        draws = int(whole and draw(st.booleans()))
        num_logits = draw(st.integers(draws, num_new))
        table = draw(st.permutations(range(1, 40)))[: -(-len(tokens) // BLOCK)]
        rows[number] = Row(
            tokens,
            computed,
            table,
            seed=draw(st.integers(0, 2**63 - 1)),
            temperature=draw(st.sampled_from([0.0, 0.5, 1.25])),
            child=draw(st.integers(0, 9)),
        )
        members.append(Member(number, num_new, num_logits, draws))
    padding = draw(st.tuples(*[st.integers(0, 4)] * 3))
    return Step(rows, members, padding if members or padding[1] else (0, 0, 0))  # tokens without sequences are no step


def inputs_of(step: Step, rows: Rows) -> dict[str, torch.Tensor]:
    out = step.outputs()
    step_inputs.reference(**out, rows=rows, **step.plan())
    return out


def test_a_step_of_no_sequence_is_all_padding() -> None:
    state = Step({}, []).state()
    wide, narrow = (lambda size: torch.full((size,), 77)), (lambda size: torch.full((size,), 77, dtype=torch.int32))
    outputs = {
        "token_ids": wide(3),
        "positions": wide(3),
        "row_of_token": narrow(3),
        "cu_q": narrow(1),
        "seq_lens": narrow(0),
        "logit_rows": wide(2),
        "draw_rows": narrow(2),
        "forced": wide(2),
    }
    plan = {name: narrow(0) for name in ("seq_rows", "num_new", "num_logits", "draws")}
    step_inputs.reference(**outputs, rows=state, **plan)
    inert = {"token_ids": -1, "row_of_token": -1, "draw_rows": -1, "forced": -1}
    for name, tensor in outputs.items():
        assert (tensor == inert.get(name, 0)).all(), name


@given(steps())
@settings(max_examples=300)
def test_step_inputs_are_those_of_the_model(step: Step) -> None:
    rows = step.state()
    before = rows.state.clone()
    out = inputs_of(step, rows)
    assert {name: x.tolist() for name, x in out.items()} == step.model()
    assert torch.equal(rows.state, before), "reading a step changes no state"


@given(steps())
@settings(max_examples=150)
def test_slots_are_block_times_size_plus_offset_and_minus_one_for_inert_tokens(step: Step) -> None:
    rows = step.state()
    out = inputs_of(step, rows)
    slots = torch.full_like(out["token_ids"], -55)
    tables = torch.full((len(out["seq_lens"]), WIDTH), -55, dtype=torch.int32)
    names = ("row_of_token", "positions")
    step_slots.reference(
        slots, tables, rows, step.plan()["seq_rows"], *(out[name] for name in names), group=0, block_size=BLOCK
    )
    expected = []
    for row, position in zip(out["row_of_token"].tolist(), out["positions"].tolist(), strict=True):
        block = step.rows[row].table[position // BLOCK] if row >= 0 else 0
        expected.append(block * BLOCK + position % BLOCK if row >= 0 else -1)
    assert slots.tolist() == expected
    for line, member in zip(tables.tolist(), [*step.members, *[Member(-1)] * step.padding[1]], strict=True):
        if member.row < 0:
            assert line == [0] * WIDTH
        else:
            mine = step.rows[member.row].table
            assert line[: len(mine)] == mine


@given(steps())
@settings(max_examples=150)
def test_a_draw_reads_its_rows_parameters_and_the_position_of_the_token_to_come(step: Step) -> None:
    rows = step.state()
    draw_rows = inputs_of(step, rows)["draw_rows"]
    r = len(draw_rows)
    temperature, child = torch.full((r,), 9.0), torch.full((r,), -55, dtype=torch.int32)
    seed, position = torch.full((r,), -55), torch.full((r,), -55)
    draw_inputs.reference(temperature, seed, position, child, rows, draw_rows)
    for place, number in enumerate(draw_rows.tolist()):
        if number < 0:
            assert temperature[place] == 0, "a row that draws nothing is greedy, whatever the spare row holds"
        else:
            row = step.rows[number]
            got = [x[place].item() for x in (temperature, seed, position, child)]
            assert got == [row.temperature, row.seed, len(row.tokens), row.child]


@given(steps(), st.data())
@settings(max_examples=150)
def test_commit_appends_what_was_drawn_and_counts_what_was_computed(step: Step, data: st.DataObject) -> None:
    rows = step.state()
    before = rows.state.clone()
    draw_rows = inputs_of(step, rows)["draw_rows"]
    ids = torch.tensor(data.draw(st.lists(st.integers(-1, 1000), min_size=len(draw_rows), max_size=len(draw_rows))))
    commit_rows.reference(rows, ids.long(), draw_rows, step.plan()["seq_rows"], step.plan()["num_new"])
    after = Rows(before, FIELDS)  # the state as it should be, written by hand
    for member in step.members:
        after.view("num_computed")[member.row] += member.num_new
    for number, token in zip(draw_rows.tolist(), ids.tolist(), strict=True):
        if number >= 0:
            after.view("tokens")[number, len(step.rows[number].tokens)] = token
            after.view("num_tokens")[number] += 1
    assert torch.equal(rows.state[:NUM_ROWS], after.state[:NUM_ROWS])


@given(steps())
@settings(max_examples=60)
def test_two_steps_in_a_row_compute_every_known_token_once_and_then_the_drawn_one(step: Step) -> None:
    rows = step.state()
    out = inputs_of(step, rows)
    ids = torch.arange(100, 100 + len(out["draw_rows"]))
    commit_rows.reference(rows, ids, out["draw_rows"], step.plan()["seq_rows"], step.plan()["num_new"])
    drawn = dict(zip(out["draw_rows"].tolist(), ids.tolist(), strict=True))
    members = []
    for m in step.members:
        row = step.rows[m.row]
        row.num_computed += m.num_new
        if m.row in drawn:
            row.tokens.append(drawn[m.row])
        left = len(row.tokens) - row.num_computed
        if left and len(row.tokens) <= MAX_LEN and row.tokens[-1] >= 0:
            members.append(Member(m.row, left, 1, 1))
    following = Step(step.rows, members, step.padding if members else (0, 0, 0))
    assert {name: x.tolist() for name, x in inputs_of(following, rows).items()} == following.model()


def test_write_rows_scatters_and_drops_negative_indices() -> None:
    state = torch.arange(24, dtype=torch.int32).view(4, 6)
    rows = Rows(state.clone(), ())
    write_rows.reference(
        rows, torch.tensor([7, -1, 0, -1], dtype=torch.int32), torch.tensor([70, 1, 2, 3], dtype=torch.int32)
    )
    assert rows.state[:3].flatten().tolist() == [2, *range(1, 7), 70, *range(8, 18)]


def test_fields_of_other_types_are_the_bits_of_the_words() -> None:
    rows = Rows(torch.zeros(3, COLUMNS, dtype=torch.int32), FIELDS)
    rows.view("seed")[1] = 2**62 + 5
    rows.view("temperature")[1] = 0.75
    words = rows.state[1].numpy()
    assert words[0:2].view(np.int64)[0] == 2**62 + 5 and words[4:5].view(np.float32)[0] == 0.75
    assert not rows.state[[0, 2]].any()


def test_a_token_stands_in_the_second_part_of_a_table_if_its_sequence_is_longer() -> None:
    rows = Step({0: Row([1] * 5, 0, [1, 2]), 2: Row([1] * 6, 4, [3, 4])}, []).state()
    rows.view("num_tokens")[NUM_ROWS] = 99  # the spare row's length is nobody's
    row_of_token = torch.tensor([0, 0, 2, 2, -1], dtype=torch.int32)
    positions = torch.tensor([3, 4, 4, 5, 0])
    for original, wanted in ((4, [103, 104, 104, 105, 0]), (5, [3, 4, 104, 105, 0]), (6, [3, 4, 4, 5, 0])):
        out = torch.empty(5, dtype=torch.int64)
        table_positions.reference(out, positions, row_of_token, rows, original, 100)
        assert out.tolist() == wanted, original
    table_positions.reference(out[:0], positions[:0], row_of_token[:0], rows, 4, 100)
