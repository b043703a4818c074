"""determinism="batch": who asks for it gets logits that depend on the request alone, bit for bit, or a refusal by site.

The kernels that promise it here do each row by itself, with the reference: slow, and so by construction.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.errors import KernelError, UsageError
from tests.support.checkpoints import Checkpoints
from tests.support.parity import random_prompts

PLUGIN = """
import torch
from aphrodite.plugin import C, DeviceInfo, Flag, Kernel, Limits, TorchPlatform, hookimpl, operations

STABLE = Flag.ALLOCATES | Flag.RUN_STABLE | Flag.BATCH_INVARIANT | Flag.SHAPE_STABLE
OPS = operations()


@hookimpl
def aphrodite_probe():
    return [DeviceInfo("rows", "row by row")]


@hookimpl
def aphrodite_platforms(reg):
    def make(info):
        return TorchPlatform.on(torch.device("cpu"), info, Limits(block_sizes=(16,)))

    reg.platform("rows", make, priority=-1)


def linear(out, x, w, bias=None):
    for row in range(x.shape[0]):
        OPS["linear@1"].reference(out[row : row + 1], x[row : row + 1].clone(), w, bias)


def rms_norm(out, x, w, eps):
    for row in range(x.shape[0]):
        one = x[row : row + 1].clone()
        OPS["rms_norm@1"].reference(one, one, w, eps)
        out[row] = one[0]


def act_mul(out, x, kind):
    for row in range(x.shape[0]):
        one = torch.empty_like(out[:1])
        OPS["act_mul@1"].reference(one, x[row : row + 1].clone(), kind)
        out[row] = one[0]


def attn_paged(out, q, cache, tables, seq_lens, cu_q, meta, scale, window=0):
    ends = cu_q.tolist()
    for s, length in enumerate(seq_lens.tolist()):
        for token in range(ends[s], ends[s + 1]):
            one = torch.empty_like(out[:1])
            seen = torch.tensor([length - (ends[s + 1] - 1 - token)], dtype=torch.int32)
            OPS["attn_paged@1"].reference(
                one, q[token : token + 1].clone(), cache, tables[s : s + 1], seen,
                torch.tensor([0, 1], dtype=torch.int32), meta, scale, window=window,
            )
            out[token] = one[0]


def by_row(name):
    op = OPS[name]

    def run(ids, logits, forced, temperature=None, seed=None, position=None, child=None, top_k=None, top_p=None,
            min_p=None):
        optional = dict(temperature=temperature, seed=seed, position=position, child=child, top_k=top_k, top_p=top_p,
                        min_p=min_p)
        for r in range(ids.shape[0]):
            one = slice(r, r + 1)
            op.reference(ids[one], logits[one].clone(), forced=forced[one],
                         **{n: v[one].clone() for n, v in optional.items() if v is not None})

    return run


def logprobs(lp, ids, rank, logits, chosen):
    for r in range(lp.shape[0]):
        one = slice(r, r + 1)
        OPS["logprobs@1"].reference(lp[one], ids[one], rank[one], logits[one].clone(), chosen[one])


@hookimpl
def aphrodite_kernels(reg, device):
    reg.kernel(Kernel("linear@1", "rows.linear", fn=linear, flags=STABLE))
    reg.kernel(Kernel("rms_norm@1", "rows.rms_norm", fn=rms_norm, flags=STABLE))
    reg.kernel(Kernel("act_mul@1", "rows.act_mul", fn=act_mul, flags=STABLE))
    reg.kernel(Kernel("attn_paged@1", "rows.attention", fn=attn_paged, where=C(features={"window"}), flags=STABLE))
    every = C(features=OPS["sample@1"].schema.features)
    reg.kernel(Kernel("sample@1", "rows.sample", fn=by_row("sample@1"), where=every, flags=STABLE))
    if not FORGETFUL:
        reg.kernel(Kernel("logprobs@1", "rows.logprobs", fn=logprobs, flags=STABLE))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Checkpoints(tmp_path_factory.mktemp("determinism")).llama(seed=5))


@pytest.fixture(params=[False])
def rows(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plugin, installed; with the parameter true it lacks a kernel for log-probabilities."""
    info = tmp_path / "rows_plugin-0.1.dist-info"
    info.mkdir()
    (tmp_path / "rows_plugin.py").write_text(f"FORGETFUL = {request.param}\n{PLUGIN}")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rows-plugin\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(
        "[aphrodite.plugins]\nrows = rows_plugin\n[aphrodite.contract]\nrows = v0_1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("rows_plugin", None)


def bits(output: Any) -> Any:
    one = output.outputs[0]
    return one.token_ids, [sorted((t, lp.logprob) for t, lp in place.items()) for place in one.logprobs]


@pytest.mark.usefixtures("rows")
def test_logits_depend_on_the_request_alone_bit_for_bit(folder: str) -> None:
    """Alone, among others, in chunks, on a warm prefix, preempted."""
    prompts = random_prompts((40, 3, 29, 17, 1, 33), seed=5)
    params = [
        SamplingParams(temperature=place % 2, seed=place, max_tokens=12, logprobs=3, ignore_eos=True)
        for place in range(len(prompts))
    ]
    settings: dict[str, Any] = {
        "device": "rows", "plugins": "rows", "dtype": "bfloat16", "determinism": "batch", "max_model_len": 64,
    }  # fmt: skip
    with LLM(folder, **settings, num_blocks=64) as llm:
        alone = [bits(llm.generate([prompt], one)[0]) for prompt, one in zip(prompts, params, strict=True)]
        llm.reset_prefix_cache()
        together = [bits(one) for one in llm.generate(prompts, params)]
        warm = llm.generate(prompts, params)
    assert any(output.num_cached_tokens for output in warm)
    with LLM(folder, **settings, num_blocks=8, max_num_batched_tokens=11) as llm:
        outputs = llm.generate(prompts, params)
    assert any(output.metrics is not None and output.metrics.num_preemptions for output in outputs)
    assert alone == together == [bits(one) for one in warm] == [bits(one) for one in outputs]


@pytest.mark.parametrize("rows", [True], indirect=True)
@pytest.mark.usefixtures("rows")
def test_one_kernel_that_does_not_promise_it_is_refused_at_the_start_by_site(folder: str) -> None:
    with pytest.raises(KernelError, match=r"sampling\.logprobs.*does not promise .*as determinism='batch' asks"):
        LLM(folder, device="rows", plugins="rows", determinism="batch", max_model_len=64)


@pytest.mark.parametrize("device", ["cpu", "toy"])
def test_a_device_without_such_kernels_refuses_by_site(folder: str, device: str) -> None:
    with pytest.raises(KernelError, match=r"at layers\.0\.attention\.qkv: .*does not promise BATCH_INVARIANT"):
        LLM(folder, device=device, determinism="batch")


def test_an_unknown_determinism_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="determinism must be one of request, batch, got 'bits'"):
        LLM(folder, determinism="bits")
