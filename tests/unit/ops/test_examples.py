"""Every operation with examples, in every type: the reference against float64, the portable form against both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aphrodite.ops.op import Op, declared
from aphrodite.ops.table import OPS
from aphrodite.platform.dtypes import torch_dtype
from tests.unit.ops.truth import TRUTHS, copies, truth, written

DTYPES = ("f32", "bf16", "f16")
SEEDS = (0, 1, 20260401)
SAMPLERS = {"sample@1", "logprobs@1"}  # compared in test_sampling.py, where near-ties are understood


def bound(op: Op, dtype: str, scale: Any) -> Any:
    """c eps(dtype) scale, and a last place of the smallest numbers, which no relative bound knows."""
    info = torch.finfo(torch_dtype(dtype))
    return op.tolerance.c * info.eps * scale + info.eps * info.tiny


def run(op: Op, form: Any, args: dict[str, Any]) -> None:
    """Call a form with the arguments it declares, and the host's bounds if it asks for them."""
    known = dict(args)
    if "cu_q" in known:
        known["max_q"] = max(known["cu_q"].diff().tolist(), default=0)
        known["max_k"] = max(known["seq_lens"].tolist(), default=0)
    form(**{name: known[name] for name in declared(form) if name in known})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRUTHS)
def test_the_reference_means_what_the_contract_says(name: str, dtype: str, seed: int) -> None:
    op = OPS[name]
    assert op.examples is not None
    labels = []
    for example in op.examples(dtype, seed):
        expected = truth(name, example.args)
        single, double = copies(example.args), copies(example.args, torch.float64)
        double |= {n: example.args[n].double() for n in ("cos_sin",) if n in example.args}
        run(op, op.reference, single)
        run(op, op.reference, double)
        for out, (value, scale) in expected.items():
            error = abs(written(name, single)[out] - value)
            assert (error <= bound(op, dtype, scale)).all(), (example.label, out, error.max())
            assert written(name, single)[out].shape == value.shape
            assert np.allclose(written(name, double)[out], value, rtol=1e-9, atol=1e-12), (example.label, out)
        labels.append(example.label)
    assert len(labels) >= 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.portable and op.examples))
def test_the_portable_form_errs_no_more_than_a_kernel_may(name: str, dtype: str, seed: int) -> None:
    op = OPS[name]
    assert op.examples is not None and op.portable is not None
    for example in op.examples(dtype, seed):
        expected = truth(name, example.args)
        reference, portable = copies(example.args), copies(example.args)
        run(op, op.reference, reference)
        run(op, op.portable, portable)
        for out, (value, scale) in expected.items():
            allowed = 2 * abs(written(name, reference)[out] - value).max(initial=0.0) + bound(op, dtype, scale)
            error = abs(written(name, portable)[out] - value)
            assert (error <= allowed).all(), (example.label, out, error.max())


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.examples))
def test_examples_are_legal_repeatable_and_include_an_empty_call(name: str) -> None:
    op = OPS[name]
    assert op.examples is not None
    again, other = list(op.examples("f32", 3)), list(op.examples("f32", 4))
    empty, differs = 0, False
    for first, second, third in zip(op.examples("f32", 3), again, other, strict=True):
        assert set(first.args) <= set(op.schema.by_name), first.label
        tensors = [arg.name for arg in op.schema.args if isinstance(first.args.get(arg.name), torch.Tensor)]
        for arg in op.schema.args:
            assert arg.optional or arg.name in first.args, (first.label, arg.name)
        for n in tensors:
            if n not in op.outputs or n in ("res", "q", "k", "x"):
                assert torch.equal(first.args[n], second.args[n]) or first.args[n].isnan().any()
                differs |= not torch.equal(first.args[n], third.args[n])
        empty += any(first.args[n].shape[:1] == (0,) for n in tensors)
        for form in filter(None, (op.reference, op.portable)):
            run(op, form, copies(first.args))  # an empty call is no error
    assert empty and differs


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.examples))
def test_only_written_arguments_are_written(name: str) -> None:
    op = OPS[name]
    assert op.examples is not None
    for example in op.examples("f32", 5):
        for form in filter(None, (op.reference, op.portable)):
            args = copies(example.args)
            run(op, form, args)
            for arg in op.schema.args:
                before, after = example.args.get(arg.name), args.get(arg.name)
                if not arg.written and isinstance(before, torch.Tensor):
                    assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0)), (example.label, arg.name)


def test_every_operation_is_compared_with_something() -> None:
    without_values = {"attn_plan@1"}  # its meta is between plan kernels and attention kernels
    state = {
        "write_rows@1",
        "step_inputs@1",
        "step_slots@1",
        "table_positions@1",
        "draw_inputs@1",
        "commit_rows@1",
    }  # test_rows.py
    state |= {"draw_limits@1", "edit_logits@1", "penalise_logits@1"}  # test_logits.py
    assert set(OPS) == set(TRUTHS) | SAMPLERS | state | without_values
