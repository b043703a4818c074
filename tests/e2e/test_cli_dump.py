"""`--dump-config`: each value with its origin, and what "auto" becomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from aphrodite import LLM, SamplingParams
from aphrodite.config import env
from aphrodite.config.table import GROUPS, find_key
from tests.support.checkpoints import Checkpoints, edit_json, write_json
from tests.support.cli import aphrodite


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Checkpoints(tmp_path_factory.mktemp("dump")).llama()
    (folder / "model.safetensors").unlink()  # nobody is to read it
    return folder


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in env.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_values_origins_and_what_auto_becomes(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("max_num_seqs: 4\nsampling:\n  temperature: 0.5\n")
    words = ("generate", model, "--config", file, "--max-model-len", "0.25K", "--dump-config")
    run = aphrodite(*words, "--json", APHRODITE_PLUGINS="none")
    document = json.loads(run.stdout)
    values = document["values"]
    assert (run.returncode, document["schema"], document["command"]) == (0, "aphrodite.config/1", "generate")
    assert values["model"] == {"value": str(model), "origin": "argument"}
    assert values["max_num_seqs"] == {"value": 4, "origin": f"file {file}:1"}
    assert values["sampling.temperature"] == {"value": 0.5, "origin": f"file {file}:3"}
    assert values["plugins"] == {"value": "none", "origin": "environment APHRODITE_PLUGINS"}
    assert values["max_model_len"] == {"value": 256, "origin": "flag --max-model-len"}
    assert values["dtype"] == {
        "value": "auto",
        "origin": "default",
        "resolved": "f32",
        "reason": "the checkpoint's own",
    }
    assert values["num_blocks"]["resolved"] == str(4 * 256 // 16)
    assert set(values) == {entry.key for group in GROUPS if group.name != "server" for entry in group.entries}
    printed = yaml.safe_load(aphrodite(*words, APHRODITE_PLUGINS="none").stdout)
    flat = {f"sampling.{name}": value for name, value in printed.pop("sampling").items()} | printed
    assert flat == {name: item["value"] for name, item in values.items()}


def test_what_it_prints_gives_the_same_again(model: Path, tmp_path: Path) -> None:
    flags = (
        *("--stop", "a: b", "--stop", "ü\t\x85\U0001f600\n'\"", "--logit-bias", "5=1.5", "--max-tokens", "none"),
        *("--kernels", "rms_norm=cpu.*,reference", "--engine-seed", "7", "--no-enable-prefix-caching", "--quiet"),
        *("--steps-in-flight", "auto", "--bad-words", "no", "--seed", "3"),
    )
    file = tmp_path / "again.yaml"
    file.write_text(aphrodite("generate", model, *flags, "--dump-config").stdout, encoding="utf-8")
    first = json.loads(aphrodite("generate", model, *flags, "--dump-config", "--json").stdout)["values"]
    again = json.loads(aphrodite("generate", "--config", file, "--dump-config", "--json").stdout)["values"]
    assert {name: item["value"] for name, item in again.items()} == {
        name: item["value"] for name, item in first.items()
    }
    assert all(item["origin"].startswith(f"file {file}:") for item in again.values())


def test_the_model_s_own_sampling_defaults_are_shown_as_such(model: Path, tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path).copy(model, tmp_path / "own")
    write_json(folder / "generation_config.json", {"temperature": 0.25, "top_k": 9})
    values = json.loads(aphrodite("chat", folder, "--top-k", 3, "--dump-config", "--json").stdout)["values"]
    assert values["sampling.temperature"] == {"value": 0.25, "origin": "the model's generation config"}
    assert values["sampling.top_k"] == {"value": 3, "origin": "flag --top-k"}
    assert values["sampling.max_tokens"] == {"value": None, "origin": "default of this command"}


def test_without_a_model_the_model_s_defaults_stay_open(tmp_path: Path) -> None:
    text = aphrodite("generate", "--dump-config", "--min-p", 0.1).stdout
    assert yaml.safe_load(text)["sampling"] == {"min_p": 0.1}
    assert "# temperature: 1.0" in text
    assert yaml.safe_load(aphrodite("generate", "--dump-config").stdout)["sampling"] == {}


def test_a_model_that_cannot_be_read_is_told_after_the_values(model: Path, tmp_path: Path) -> None:
    broken = Checkpoints(tmp_path).copy(model, tmp_path / "broken")
    edit_json(broken / "config.json", lambda data: data.update(architectures=["NoSuchForCausalLM"]))
    run = aphrodite("explain", broken, "--dump-config")
    assert run.returncode == 4 and "NoSuchForCausalLM" in run.stderr
    assert yaml.safe_load(run.stdout)["model"] == str(broken)
    run = aphrodite("explain", broken, "--dump-config", "--json")
    document = json.loads(run.stdout)
    assert run.returncode == document["error"]["exit_code"] == 4
    assert document["values"]["model"]["value"] == str(broken)


def test_the_same_settings_reach_the_engine(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path).llama()
    file = tmp_path / "c.yaml"
    file.write_text(f"model: {folder}\nmax_model_len: 100\nsampling: {{temperature: 0, max_tokens: 6}}\n")
    run = aphrodite("generate", "--config", file, "--token-ids", "1,5,9", "--json")
    ids = json.loads(run.stdout)["outputs"][0]["outputs"][0]["token_ids"]
    with LLM(str(folder), max_model_len=100) as llm:
        (truth,) = llm.generate([[1, 5, 9]], SamplingParams(temperature=0, max_tokens=6))
    assert ids == truth.outputs[0].token_ids and len(ids) <= 6
    refused = aphrodite("generate", "--config", file, "--token-ids", ",".join(["7"] * 120))
    assert refused.returncode == 2 and "max_model_len 100" in refused.stderr


def test_keys_are_found_by_their_own_names() -> None:
    assert find_key("seed") is not find_key("sampling.seed")
    assert find_key("nosuch") is None
