"""A plugin as its author would write it, from the contract alone: a device, one kernel, and an engine runs on it."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aphrodite import LLM, SamplingParams

PLUGIN = '''
"""Acme: torch tensors on the host, and a norm of its own."""
from aphrodite.plugin import C, DeviceInfo, Kernel, Limits, TorchPlatform, hookimpl

runs = []


@hookimpl
def aphrodite_probe():
    return [DeviceInfo("acme", "the Acme device", arch="a2")]


@hookimpl
def aphrodite_platforms(reg):
    def make(info):
        import torch

        return TorchPlatform.on(torch.device("cpu"), info, Limits(block_sizes=(8, 16)))

    reg.platform("acme", make, priority=50)


def rms_norm(out, x, w, eps):
    import torch

    runs.append(x.shape[0])
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    out.copy_(x.float() * scale * w.float())


@hookimpl
def aphrodite_kernels(reg, device):
    reg.kernel(Kernel("rms_norm@1", "acme.norm", fn=rms_norm, where=C(dtype={"f32", "bf16"}, arch="a2")))
'''
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "dtype": "float32",
}


def checkpoint(folder: Path) -> Path:
    """A tiny Llama with random weights, written as its authors would."""
    g = torch.Generator().manual_seed(11)

    def matrix(n: int, k: int) -> torch.Tensor:
        return torch.randn(n, k, generator=g) * k**-0.5

    tensors = {
        "model.embed_tokens.weight": torch.randn(61, 24, generator=g),
        "model.norm.weight": 1 + 0.3 * torch.randn(24, generator=g),
        "lm_head.weight": matrix(61, 24) * 3,
    }
    for i in range(2):
        layer = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{norm}.weight"] = 1 + 0.3 * torch.randn(24, generator=g)
        shapes = {"q_proj": (32, 24), "k_proj": (16, 24), "v_proj": (16, 24), "o_proj": (24, 32)}
        tensors |= {f"{layer}self_attn.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        shapes = {"gate_proj": (40, 24), "up_proj": (40, 24), "down_proj": (24, 40)}
        tensors |= {f"{layer}mlp.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plugin, installed."""
    site = tmp_path / "site"
    info = site / "acme_plugin-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "acme_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-plugin\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(
        "[aphrodite.plugins]\nacme = acme_plugin\n[aphrodite.contract]\nacme = v0_1\n"
    )
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("acme_plugin", None)


def test_the_plugin_imports_nothing_but_the_contract() -> None:
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(PLUGIN))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported == {"aphrodite.plugin", "torch"}


PROMPTS = [[3, 14, 15, 9, 26, 5], [35], list(range(20))]


def test_an_engine_runs_on_it_and_says_what_runs(acme: Path, tmp_path: Path) -> None:
    from aphrodite.program.explain import explain

    folder = checkpoint(tmp_path)
    greedy = SamplingParams(temperature=0, max_tokens=12, logprobs=0)
    with LLM(str(folder), device="cpu", plugins="none", max_model_len=48, num_blocks=40) as plain:
        expected = plain.generate(PROMPTS, greedy)
    with LLM(
        str(folder), device="acme", plugins="acme", max_model_len=48, num_blocks=40, max_num_batched_tokens=7
    ) as llm:
        outputs = llm.generate(PROMPTS, greedy)
        blueprint = llm.blueprint
    for one, other in zip(outputs, expected, strict=True):
        assert one.outputs[0].token_ids == other.outputs[0].token_ids and len(one.outputs[0].token_ids) == 12
        assert one.outputs[0].cumulative_logprob == pytest.approx(other.outputs[0].cumulative_logprob, abs=1e-3)
    assert blueprint.entry.info.device == "acme" and blueprint.limits.block_sizes == (8, 16)
    (report,) = [report for report in blueprint.found.reports if report.name == "acme"]
    assert (report.state, report.kernels, report.version) == ("ready", ("acme.norm",), "0.1")
    winners = {report.op: {choice.winner for choice in report.choices} for report in explain(blueprint.forward)}
    assert winners["rms_norm@1"] == {"acme.norm"} and winners["linear@1"] == {"portable"}
    runs = sys.modules["acme_plugin"].runs
    assert runs and max(runs) == 7, "the kernel saw the chunks of the token budget"


def test_where_its_kernel_cannot_work_the_torch_form_does_and_the_reason_is_kept(acme: Path, tmp_path: Path) -> None:
    from aphrodite.program.explain import explain

    folder = checkpoint(tmp_path)
    with LLM(str(folder), device="acme", plugins="acme", max_model_len=48, num_blocks=40, dtype="float16") as llm:
        assert len(llm.generate([1, 2, 3], SamplingParams(temperature=0, max_tokens=3))[0].outputs[0].token_ids) == 3
        norms = [report for report in explain(llm.blueprint.forward) if report.op == "rms_norm@1"]
    for report in norms:
        for choice in report.choices:
            assert choice.winner == "reference"
            assert (choice.verdicts[0].provider, choice.verdicts[0].reason) == (
                "acme.norm",
                "dtype=f16 not in {bf16, f32}",
            )


def test_auto_prefers_it_to_the_core_by_priority(acme: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    with LLM(str(folder), plugins="acme", max_model_len=48, num_blocks=40) as llm:
        assert llm.blueprint.entry.info.device == "acme"
        assert "acme" in llm.blueprint.reasons["device"]
