"""The command line as a user meets it: output, exit codes, one line of error and never a traceback."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import Checkpoints, edit_json
from tests.support.cli import aphrodite, refused


def test_the_installed_command_runs_in_a_process_of_its_own(model: Path) -> None:
    command = [str(Path(sys.executable).parent / "aphrodite"), "generate", str(model), "--prompt", "a", "--quiet"]
    run = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == aphrodite(*command[1:], "--seed", 3).stdout
    run = subprocess.run([*command, "--seed", "-7"], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("aphrodite: error: seed must be an integer in -1..")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Checkpoints(tmp_path_factory.mktemp("cli")).llama()


def test_generate_prints_the_text_alone_on_standard_output(model: Path) -> None:
    run = aphrodite("generate", model, "--prompt", "The engine", "--max-tokens", 8, "--seed", 3)
    document = aphrodite("generate", model, "--prompt", "The engine", "--max-tokens", 8, "--seed", 3, "--json")
    assert run.returncode == document.returncode == 0
    assert run.stdout == json.loads(document.stdout)["outputs"][0]["outputs"][0]["text"] + "\n"
    assert run.stderr == document.stderr
    line = r"cpu: \d+ threads? \(affinity \d+.*\), f32 \(the checkpoint's own\), KV [\d.]+ MiB = [\d,]+ tokens\n"
    assert re.fullmatch(line, run.stderr), "the one line about the machine"
    assert aphrodite("generate", model, "--prompt", "a", "--quiet").stderr == ""


def test_generate_json_is_one_document_with_its_schema(model: Path) -> None:
    flags = ("--token-ids", "1,5,9", "--prompt", "a", "--max-tokens", 4, "--temperature", 0, "--logprobs", 2)
    run = aphrodite("generate", model, *flags, "--json")
    document = json.loads(run.stdout)
    assert document["schema"] == "aphrodite.generate/1"
    assert [output["prompt"] for output in document["outputs"]] == ["a", None]
    assert document["outputs"][1]["prompt_token_ids"] == [1, 5, 9]
    assert len(document["outputs"][0]["outputs"][0]["logprobs"]) == 4


@pytest.mark.parametrize("device", ["cpu", "toy"])
def test_greedy_text_is_the_same_on_every_device(model: Path, device: str) -> None:
    flags = ("--prompt", "The engine", "--temperature", 0, "--max-tokens", 12)
    on_core = aphrodite("generate", model, *flags, "--plugins", "none")
    run = aphrodite("generate", model, *flags, "--device", device)
    assert run.returncode == 0, run.stderr
    assert run.stdout == on_core.stdout


def test_the_device_comes_from_the_environment_when_no_flag_names_it(model: Path) -> None:
    run = aphrodite("explain", model, "--json", APHRODITE_TARGET_DEVICE="toy")
    assert json.loads(run.stdout)["device"] == "toy"
    run = aphrodite("explain", model, "--json", "--device", "cpu", APHRODITE_TARGET_DEVICE="toy")
    assert json.loads(run.stdout)["device"] == "cpu"


def test_plugins_lists_each_plugin_with_its_state() -> None:
    document = json.loads(aphrodite("plugins", "--json").stdout)
    assert document["schema"] == "aphrodite.plugins/1"
    assert {report["name"]: report["state"] for report in document["plugins"]} == {"cpu": "ready", "toy": "ready"}
    document = json.loads(aphrodite("plugins", "--json", APHRODITE_PLUGINS="-toy").stdout)
    assert {report["name"]: report["state"] for report in document["plugins"]} == {"cpu": "ready", "toy": "disabled"}
    assert "ready" in aphrodite("plugins").stdout


def test_explain_names_winner_and_each_losers_first_failing_clause(tmp_path: Path) -> None:
    model = Checkpoints(tmp_path).llama(hidden_size=66, num_attention_heads=3, num_key_value_heads=1, head_dim=22)
    document = json.loads(aphrodite("explain", model, "--device", "toy", "--op", "rms_norm", "--json").stdout)
    verdicts = {v["provider"]: v for v in document["sites"][0]["choices"][0]["verdicts"]}
    assert verdicts["toy.rms_norm"]["reason"] == "H=66 not a multiple of 4"
    assert verdicts["reference"]["chosen"]
    text = aphrodite("explain", model, "--device", "toy", "--op", "rms_norm").stdout
    assert "toy.rms_norm: not: H=66 not a multiple of 4" in text


def test_explain_needs_no_weights(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    assert aphrodite("explain", tmp_path).returncode == 0


def test_wrong_usage_exits_with_2(model: Path) -> None:
    refused(aphrodite("generate", model), 2, "--prompt")
    refused(aphrodite("generate", model, "--prompt", "a", "--temperature", -1), 2, "temperature", ">= 0", "-1")
    refused(aphrodite("generate", model, "--prompt", "a", "--temperature", "nan"), 2, "temperature", "nan")
    refused(aphrodite("generate", model, "--token-ids", "1,320"), 2, "320", "0..319")
    refused(aphrodite("generate", model, "--token-ids", "1,x"), 2, "1,x")
    refused(aphrodite("generate", model, "--token-ids", ",".join(["7"] * 600)), 2, "600", "512")
    refused(aphrodite("generate", model, "--prompt", "a", "--device", "nosuch"), 2, "nosuch", "cpu", "toy")
    refused(aphrodite("generate", model, "--prompt", "a", "--block-size", 7), 2, "block_size", "7")
    refused(aphrodite("explain", model, "--op", "nosuch"), 2, "nosuch", "rms_norm")
    refused(aphrodite("generate", model, "--prompt", "a", "--kernels", "x"), 2, "kernels", "x")
    refused(aphrodite("nosuch"), 2, "nosuch")


def test_what_does_not_fit_exits_with_3(model: Path) -> None:
    refused(aphrodite("generate", model, "--prompt", "a", "--kv-cache-memory-bytes", 100), 3, "kv_cache_memory_bytes")
    flags = ("--num-blocks", 4, "--max-model-len", 512)
    refused(aphrodite("generate", model, "--prompt", "a", *flags), 3, "max_model_len 512", "num_blocks")


def test_a_model_that_cannot_be_loaded_exits_with_4(model: Path, tmp_path: Path) -> None:
    refused(aphrodite("generate", tmp_path / "absent", "--prompt", "a"), 4, "absent", "no such folder")
    refused(aphrodite("generate", model / "config.json", "--prompt", "a"), 4, "is a file")
    refused(aphrodite("generate", tmp_path, "--prompt", "a"), 4, "config.json does not exist")
    broken = Checkpoints(tmp_path).copy(model, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(aphrodite("generate", broken, "--prompt", "a"), 4, "model.safetensors", "not a sound safetensors file")
    edit_json(broken / "config.json", lambda data: data.update(architectures=["NoSuchForCausalLM"]))
    refused(aphrodite("generate", broken, "--prompt", "a"), 4, "NoSuchForCausalLM", "LlamaForCausalLM")


def test_a_kernel_asked_for_that_cannot_run_is_an_error_with_the_reason(model: Path) -> None:
    flags = ("--prompt", "a", "--kernels", "rms_norm=nosuch.*")
    refused(aphrodite("generate", model, *flags), 1, "kernels.rms_norm", "nosuch.*", "cpu.rms_norm")
    refused(aphrodite("generate", model, "--prompt", "a", "--fallback", "error"), 1, "torch form", "fallback")


def test_the_core_runs_with_no_plugin_at_all(model: Path) -> None:
    run = aphrodite("explain", model, "--json", APHRODITE_PLUGINS="none")
    document = json.loads(run.stdout)
    assert (document["device"], document["plugin"]) == ("cpu", "core")
    used = {v["provider"] for s in document["sites"] for c in s["choices"] for v in c["verdicts"] if v["chosen"]}
    assert used == {"reference", "portable"}
    run = aphrodite("generate", model, "--prompt", "a", APHRODITE_PLUGINS="none")
    assert run.returncode == 0, run.stderr


def test_json_is_one_document_also_when_it_fails(model: Path) -> None:
    run = aphrodite("generate", model, "--prompt", "a", "--max-tokens", 0, "--json")
    document = json.loads(run.stdout)
    assert run.returncode == document["error"]["exit_code"] == 2
    assert document["schema"] == "aphrodite.generate/1" and "max_tokens" in document["error"]["message"]


def test_logits_that_are_no_numbers_fail_the_command(model: Path, tmp_path: Path) -> None:
    broken = Checkpoints(tmp_path).copy(model, tmp_path / "nan")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run = aphrodite("generate", broken, "--prompt", "a")
    assert run.returncode == 1 and "prompts[0]: the logits were not numbers" in run.stderr
    document = json.loads(aphrodite("generate", broken, "--prompt", "a", "--json").stdout)
    assert document["outputs"][0]["outputs"][0]["finish_reason"] == "error"


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 5000, "a\0b"])
def test_a_name_that_is_no_path_is_one_line(name: str) -> None:
    refused(aphrodite("generate", name, "--prompt", "a"), 4, name[:1])


def test_the_log_goes_to_standard_error_at_the_level_of_the_variable(model: Path) -> None:
    flags = ("generate", model, "--token-ids", "1,5", "--max-tokens", 1, "--fallback", "warn", "--plugins", "none")
    run = aphrodite(*flags)
    assert run.returncode == 0
    assert run.stderr.startswith("aphrodite: warning: ") and "torch form" in run.stderr
    assert aphrodite(*flags, "--quiet", APHRODITE_LOG="ERROR").stderr == ""
    assert "torch form" in aphrodite(*flags, "--log-level", "info", APHRODITE_LOG="ERROR").stderr
    assert logging.getLogger("aphrodite").handlers == []  # nothing stays behind in the program that called


def test_a_wrong_parameter_is_refused_before_the_model_is_touched(tmp_path: Path) -> None:
    refused(aphrodite("generate", tmp_path / "absent", "--prompt", "a", "--top-p", 2), 2, "top_p must be", "2.0")
