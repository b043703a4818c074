"""What paged attention over Transformers' modules cannot do is refused at load, by name."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aphrodite.blueprint import draw_up
from aphrodite.cli.main import main
from aphrodite.config.engine import config_from
from aphrodite.errors import ModelError
from tests.support.checkpoints import Checkpoints, edit_json, write_json
from tests.support.engines import engine

SMALL: Mapping[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
STATE = "need recurrent state beside the keys and values of attention"
OWN = "need attention of their own: they do not call Transformers' attention interface"
ENCODER = "need an encoder beside the decoder, and cross attention"

# Architecture, model_type, other fields, and what the message says.
REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "bloom": ("BloomForCausalLM", "bloom", {}, "need ALiBi"),
    "mpt": ("MptForCausalLM", "mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, "need ALiBi"),
    "falcon with alibi": ("FalconForCausalLM", "falcon", {"alibi": True}, "need ALiBi"),
    "falcon": ("FalconForCausalLM", "falcon", {}, OWN),
    "gpt-neo": ("GPTNeoForCausalLM", "gpt_neo", {"num_layers": 2, "attention_types": [[["global"], 2]]}, OWN),
    "mamba": ("MambaForCausalLM", "mamba", {}, STATE),
    "jamba": ("JambaForCausalLM", "jamba", {}, STATE),
    "recurrent gemma": ("RecurrentGemmaForCausalLM", "recurrent_gemma", {}, STATE),
    "qwen 3 next": ("Qwen3NextForCausalLM", "qwen3_next", {}, STATE),
    "lfm 2": (
        "Lfm2ForCausalLM",
        "lfm2",
        {"layer_types": ["conv", "full_attention"]},
        f"{STATE} .layer_types has 'conv'",
    ),
    "rwkv": ("RwkvForCausalLM", "rwkv", {}, STATE),
    "t5": ("T5ForConditionalGeneration", "t5", {}, ENCODER),
    "bart": ("BartForConditionalGeneration", "bart", {}, ENCODER),
    "whisper": ("WhisperForConditionalGeneration", "whisper", {}, ENCODER),
    "a decoder with cross attention": (
        "BertLMHeadModel",
        "bert",
        {"is_decoder": True, "add_cross_attention": True},
        "need cross attention",
    ),
    "bert": ("BertLMHeadModel", "bert", {}, "need bidirectional masks: tokens see later ones .at bert.encoder.layer.0"),
    "bert's body": ("BertForMaskedLM", "bert", {}, "for model_type 'bert' it has BertLMHeadModel"),
    "llama 4": ("Llama4ForCausalLM", "llama4_text", {}, "need chunked attention"),
    "a causal model asked to see both ways": ("GraniteForCausalLM", "granite", {"is_causal": False}, "bidirectional"),
    "sparse attention": (
        "DeepseekV32ForCausalLM",
        "deepseek_v32",
        {"num_key_value_heads": 4, "num_local_experts": 4},
        "need an attention that knows indices",
    ),
    "an unknown rope": (
        "GraniteForCausalLM",
        "granite",
        {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}},
        "spiral",
    ),
    "no model_type that Transformers has": ("NosuchForCausalLM", "nosuch", {}, "has no model_type 'nosuch'"),
    "another model's model_type": ("NosuchForCausalLM", "granite", {}, "for model_type 'granite' it has GraniteFor"),
    "a config that is not one": ("GraniteForCausalLM", "granite", {"hidden_size": "many"}, "cannot read its config"),
}


def write(folder: Path, architecture: str, model_type: str, fields: Mapping[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {**SMALL, "architectures": [architecture], "model_type": model_type, **fields})
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_any_weight_is_read(name: str, tmp_path: Path) -> None:
    architecture, model_type, fields, message = REFUSED[name]
    folder = write(tmp_path / "model", architecture, model_type, fields)
    with pytest.raises(ModelError, match=message) as refusal:
        draw_up(config_from({"model": str(folder), "device": "cpu"}))
    assert architecture in str(refusal.value)
    assert str(folder / "config.json") in str(refusal.value)


def test_positions_that_begin_elsewhere_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "RobertaForCausalLM", "roberta", {"is_decoder": True, "pad_token_id": 1})
    with pytest.raises(ModelError, match="need positions that do not begin at 0, or depend on the text"):
        engine(folder, "cpu", load_format="dummy", max_model_len=32, cache_tokens=64)


def test_code_of_the_checkpoint_is_never_run(tmp_path: Path) -> None:
    code = tmp_path / "model" / "modeling_own.py"
    for auto_map in ({"AutoModelForCausalLM": "modeling_own.Own"}, {"AutoConfig": "modeling_own.OwnConfig"}):
        folder = write(tmp_path / "model", "OwnForCausalLM", "own", {"auto_map": auto_map})
        code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        with pytest.raises(ModelError, match=r"model code is in the checkpoint \(.*modeling_own.*trust_remote_code"):
            draw_up(config_from({"model": str(folder), "device": "cpu"}))
    folder = write(tmp_path / "model", "GraniteForCausalLM", "granite", {"auto_map": auto_map})
    with pytest.raises(ModelError, match="trust_remote_code"):
        draw_up(config_from({"model": str(folder), "device": "cpu"}))
    assert not (tmp_path / "ran").exists()


def test_an_architecture_that_has_a_page_is_refused_by_its_page(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "LlamaForCausalLM", "llama", {"attention_multiplier": 0.5})
    with pytest.raises(ModelError, match=r"attention_multiplier 0.5 is not supported for this architecture"):
        draw_up(config_from({"model": str(folder), "device": "cpu"}))


def test_without_transformers_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "model", "GraniteForCausalLM", "granite", {})
    original = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "transformers":
            raise ImportError("No module named 'transformers'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ModelError, match=r'Granite.* has no page .*pip install "aphrodite-core\[hf\]"'):
        draw_up(config_from({"model": str(folder), "device": "cpu"}))


def test_fields_that_steer_transformers_steer_nothing_here(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints.copy(checkpoints.make("granite"), tmp_path / "model")
    steering = {
        "attn_implementation": "flash_attention_2",
        "_attn_implementation": "sdpa",
        "output_attentions": True,
        "output_hidden_states": True,
        "return_dict": False,
        "torchscript": False,
        "use_cache": True,
    }
    edit_json(folder / "config.json", lambda data: data.update(steering))
    plain = draw_up(config_from({"model": str(checkpoints.make("granite")), "device": "cpu"}))
    assert draw_up(config_from({"model": str(folder), "device": "cpu"})).spec.probed == plain.spec.probed


@pytest.mark.parametrize(
    ("family", "way"),
    [
        ("granite", "GraniteForCausalLM: modules of Transformers 5"),
        ("llama", "LlamaForCausalLM: its own page"),
    ],
)
def test_explain_says_which_way_a_model_runs(
    family: str, way: str, checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(checkpoints.make(family))
    assert main(["explain", folder, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if line.strip().startswith("network ")]
    assert way in line
    assert main(["explain", folder, "--device", "cpu", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert way in document["settings"]["network"]
    programs = {site["program"] for site in document["sites"] if site["op"] == "attn_paged@1"}
    assert programs == {"attention" if family == "granite" else "forward"}


def test_a_model_that_has_a_page_needs_no_transformers(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.llama()
    for name in list(sys.modules):
        if name.partition(".")[0] == "transformers":
            monkeypatch.setitem(sys.modules, name, None)  # importing it raises
    draw_up(config_from({"model": str(folder), "device": "cpu"}))
