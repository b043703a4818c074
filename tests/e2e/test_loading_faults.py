"""What cannot be used is refused at once: the right error, naming the thing, its value and what is legal."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aphrodite import LLM, SamplingParams, build, errors
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.sampling_params import parameters
from aphrodite.types.shown import shown
from tests.support.checkpoints import EOS, VOCAB_SIZE, Checkpoints, edit_json, write_json
from tests.support.devices import DEVICES, require
from tests.support.engines import check_idle
from tests.support.reference import Reference

EXIT_CODES = {
    errors.UsageError: 2,
    errors.ContextLengthError: 2,
    errors.ShapeError: 2,
    errors.CapacityError: 3,
    errors.ModelError: 4,
    errors.CheckpointError: 4,
}
LIMIT_S = 2.0
Kind = type[errors.AphroditeError]


@contextmanager
def refused(kind: Kind, *words: str) -> Iterator[pytest.ExceptionInfo[errors.AphroditeError]]:
    """The block raises exactly that error, within LIMIT_S of this process's own time; its message
    has all these words."""
    start = time.process_time()
    with pytest.raises(errors.AphroditeError) as caught:
        yield caught
    took = time.process_time() - start
    message = str(caught.value)
    print(f"{type(caught.value).__name__}: {message}")
    assert type(caught.value) is kind, message
    assert caught.value.exit_code == EXIT_CODES[kind]
    assert caught.value.subject is not None, message
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert "\n" not in message
    assert took < LIMIT_S


@pytest.fixture(scope="session")
def original(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama(seed=20, num_hidden_layers=1)


@pytest.fixture(scope="session")
def sharded_original(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama(seed=20, num_hidden_layers=1, shard_size="40KB")


@pytest.fixture(scope="module", autouse=True)
def warm(original: Path) -> None:
    """Imports and the discovery of plugins are no part of what is timed."""
    load(original).close()


@pytest.fixture
def folder(original: Path, checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A sound checkpoint that the test may spoil."""
    return checkpoints.copy(original, tmp_path / "model")


@pytest.fixture
def shards(sharded_original: Path, checkpoints: Checkpoints, tmp_path: Path) -> Path:
    return checkpoints.copy(sharded_original, tmp_path / "shards")


def load(folder: Path | str, **settings: Any) -> LLM:
    settings = {"device": "cpu", "dtype": "float32", "max_model_len": 64, "num_blocks": 8, **settings}
    return LLM(str(folder), **settings)


# --------------------------------------------------------------------------------------------------- the folder


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./nowhere", "nowhere", "~/nowhere-at-all", "a/b/c"])
def test_wrong_path_is_named(path: str) -> None:
    with refused(errors.ModelError, path, "no such folder"):
        load(path)


def test_empty_name_is_refused() -> None:
    with refused(errors.UsageError, "model", "''"):
        load("")


def test_file_instead_of_a_folder_says_what_a_model_is(folder: Path) -> None:
    path = folder / "model.safetensors"
    with refused(errors.ModelError, str(path), "is a file", "folder", "config.json"):
        load(path)


def test_revision_of_a_local_folder_is_refused(folder: Path) -> None:
    with refused(errors.UsageError, "revision", "'main'", str(folder)):
        load(folder, revision="main")


def test_folder_without_config_is_no_checkpoint(folder: Path) -> None:
    (folder / "config.json").unlink()
    with refused(errors.ModelError, str(folder / "config.json"), "does not exist"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"{'a': 1}", "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON"),
        (b"[1, 2]", "list"),
        (b'"llama"', "str"),
        (b"null", "NoneType"),
    ],
    ids=["empty", "cut", "quotes", "bytes", "deep", "long number", "list", "string", "null"],
)
def test_config_that_is_no_json_object_is_named(content: bytes, word: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with refused(errors.ModelError, str(folder / "config.json"), "JSON", word):
        load(folder)


def test_config_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with refused(errors.ModelError, str(folder / "config.json")):
        load(folder)


NO_FILES = {"a pipe": os.mkfifo, "a device": lambda path: path.symlink_to("/dev/zero"), "a folder": Path.mkdir}
FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
)


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_neither_read_nor_waited_for(name: str, kind: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    NO_FILES[kind](folder / name)
    wrong = errors.CheckpointError if "safetensors" in name else errors.ModelError
    with refused(wrong, str(folder / name), "is no file"):
        load(folder)


def test_what_a_file_holds_is_quoted_in_one_printable_line_of_bounded_length(folder: Path) -> None:
    for name in ("A" * 100_000, "red\x1b[31m\nline"):
        edit_json(folder / "config.json", lambda data: data.update(architectures=[name]))  # noqa: B023
        with refused(errors.ModelError, "config.json", "architecture", "is not supported") as caught:
            load(folder)
        assert len(str(caught.value)) < 2200 and str(caught.value).isprintable()


# --------------------------------------------------------------------------------------------------- the config


CONFIG_FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown architecture": ({"architectures": ["MambaForCausalLM"]}, ("MambaForCausalLM", "recurrent state")),
    "no architecture": ({"architectures": None}, ("architectures", "None")),
    "empty architectures": ({"architectures": []}, ("architectures", "[]")),
    "architecture no list": ({"architectures": "LlamaForCausalLM"}, ("architectures", "'LlamaForCausalLM'")),
    "rope type": (
        {"rope_parameters": {"rope_type": "spiral", "rope_theta": 10000.0, "factor": 4.0}},
        ("rope_type", "'spiral'", "llama3"),
    ),
    "old rope type": (
        {"rope_parameters": None, "rope_scaling": {"type": "spiral", "factor": 2.0}},
        ("'spiral'", "linear", "llama3"),
    ),
    "rope no object": ({"rope_parameters": [1]}, ("rope_parameters", "[1]", "object")),
    "rope without factor": ({"rope_parameters": {"rope_type": "llama3"}}, ("rope_parameters", "factor")),
    "rope of wrong order": (
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 64,
            }
        },
        ("low_freq_factor", "4.0"),
    ),
    "activation": ({"hidden_act": "mish"}, ("hidden_act", "'mish'", "silu")),
    "quantised": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, ("'awq'", "quantised", "unquantised")),
    "compressed": ({"compression_config": {"quant_method": "sparse"}}, ("'sparse'", "quantised")),
    "quantised without a name": ({"quantization_config": {"bits": 4}}, ("quantised",)),
    "no hidden size": ({"hidden_size": None}, ("hidden_size", "missing")),
    "hidden size text": ({"hidden_size": "64"}, ("hidden_size", "int", "'64'")),
    "hidden size float": ({"hidden_size": 64.0}, ("hidden_size", "int", "64.0")),
    "hidden size true": ({"hidden_size": True}, ("hidden_size", "int", "True")),
    "no layers": ({"num_hidden_layers": 0}, ("num_hidden_layers", "at least 1", "0")),
    "negative heads": ({"num_attention_heads": -4}, ("num_attention_heads", "at least 1", "-4")),
    "heads that do not divide": ({"num_key_value_heads": 3}, ("num_key_value_heads 3", "num_attention_heads 4")),
    "odd head": ({"head_dim": 15}, ("15", "pairs")),
    "hidden size not divisible": ({"hidden_size": 63, "head_dim": None}, ("hidden_size 63", "num_attention_heads 4")),
    "bias no bool": ({"attention_bias": "yes"}, ("attention_bias", "bool", "'yes'")),
    "vocabulary": ({"vocab_size": -1}, ("vocab_size", "at least 1", "-1")),
    "a number past all floats": ({"rms_norm_eps": 10**400}, ("rms_norm_eps", "inf")),
    "half of a character": ({"bos_token": "\ud800"}, ("lone surrogate",)),
}


@pytest.mark.parametrize("name", CONFIG_FAULTS)
def test_config_that_cannot_be_read_is_refused_by_field_and_value(name: str, folder: Path) -> None:
    change, words = CONFIG_FAULTS[name]
    edit_json(folder / "config.json", lambda data: data.update(change))
    with refused(errors.ModelError, "config.json", *words):
        load(folder)


@pytest.mark.parametrize("window", [2**31, 10**20])
def test_window_that_no_kernel_takes_is_refused(window: int, checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints.copy(checkpoints.make("mistral", num_hidden_layers=1), tmp_path / "mistral")
    edit_json(folder / "config.json", lambda data: data.update(sliding_window=window))
    with refused(errors.ModelError, "config.json", "sliding_window", str(2**31 - 1), str(window)):
        load(folder)


MODULE_FAULTS: dict[str, tuple[Any, Kind, tuple[str, ...]]] = {
    "num_hidden_layers": (1 << 24, errors.ModelError, ("config.json", "16777216", "512 layers")),
    "intermediate_size": (1 << 24, errors.CheckpointError, ("3221278912 parameters", "71872")),
    "vocab_size": (1 << 24, errors.CheckpointError, ("parameters", "71872")),
    "hidden_size": (10**30, errors.ModelError, ("config.json", "cannot be made")),
}


@pytest.mark.parametrize("field", MODULE_FAULTS)
def test_network_of_modules_that_the_files_cannot_fill_takes_no_memory(
    field: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    value, kind, words = MODULE_FAULTS[field]
    folder = checkpoints.copy(checkpoints.make("granite", num_hidden_layers=1), tmp_path / "granite")
    edit_json(folder / "config.json", lambda data: data.update({field: value}))
    with refused(kind, *words):
        load(folder)


@pytest.mark.parametrize("eps", ["-1.0", "NaN", "Infinity", "-Infinity"])
def test_epsilon_that_is_no_small_positive_number_is_refused(eps: str, folder: Path) -> None:
    edit_json(folder / "config.json", lambda data: data.update(rms_norm_eps=json.loads(eps)))
    with refused(errors.ModelError, "rms_norm_eps"):
        load(folder)


@pytest.mark.parametrize("theta", ["-1.0", "0.0", "NaN", "Infinity"])
def test_rope_theta_that_is_no_positive_number_is_refused(theta: str, folder: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": json.loads(theta)}
    edit_json(folder / "config.json", lambda data: data.update(rope_parameters=rope))
    with refused(errors.ModelError, "rope_theta"):
        load(folder)


def test_unknown_type_of_the_checkpoint_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", lambda data: data.update(dtype="float8_e5m2"))
    with refused(errors.ModelError, "config.json", "dtype", "'float8_e5m2'"):
        load(folder, dtype="auto")


def test_generation_config_with_a_wrong_end_token_is_refused(folder: Path) -> None:
    write_json(folder / "generation_config.json", {"eos_token_id": "</s>"})
    with refused(errors.ModelError, "generation_config.json", "eos_token_id", "'</s>'"):
        load(folder)


@pytest.mark.parametrize("ids", [99_999_999, [EOS, 2**70], [10**30]], ids=repr)
def test_end_token_past_the_vocabulary_is_left_out_with_a_note(ids: Any, folder: Path) -> None:
    write_json(folder / "generation_config.json", {"eos_token_id": ids})
    with load(folder) as llm:
        assert llm.blueprint.generation.end_ids == ({EOS} if ids == [EOS, 2**70] else set())
        assert any("eos_token_id" in note and f"{VOCAB_SIZE} tokens" in note for note in llm.blueprint.notes)
        output = llm.generate([GOOD], SamplingParams(temperature=0, max_tokens=4))[0].outputs[0]
        assert output.token_ids == expected_tokens(llm)[: len(output.token_ids)]


TOKENIZER_CONFIGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "extra no list": ("tokenizer_config.json", '{"extra_special_tokens": 5}', ("extra_special_tokens", "5")),
    "extra half a character": ("tokenizer_config.json", '{"extra_special_tokens": ["\\ud800"]}', ("surrogate",)),
    "name half a character": ("tokenizer_config.json", '{"bos_token": "\\uDFFF"}', ("surrogate",)),
    "template half a character": ("tokenizer_config.json", '{"chat_template": "\\ud83d"}', ("surrogate",)),
    "template too long": (
        "tokenizer_config.json",
        json.dumps({"chat_template": "x" * 300_000}),
        ("chat_template", "300000", "262144"),
    ),
    "added text": ("added_tokens.json", '{"<x>": "y"}', ("'<x>'", "'y'")),
    "added null": ("added_tokens.json", '{"<x>": null}', ("'<x>'", "None")),
    "added infinite": ("added_tokens.json", '{"<x>": 1e400}', ("'<x>'", "inf")),
    "added list": ("added_tokens.json", '{"<x>": [1]}', ("'<x>'", "[1]")),
    "added negative": ("added_tokens.json", '{"<x>": -5}', ("'<x>'", "-5")),
}


@pytest.mark.parametrize("name", TOKENIZER_CONFIGS)
def test_file_beside_the_tokenizer_that_cannot_be_used_is_named(name: str, folder: Path) -> None:
    file, text, words = TOKENIZER_CONFIGS[name]
    (folder / file).write_text(text)
    with refused(errors.ModelError, file, *words):
        load(folder)


def test_template_that_writes_more_than_fits_is_refused_before_it_is_tokenised(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "chat_template.jinja").write_text("{% for i in range(1000) %}" + "x" * 1000 + "{% endfor %}")
    with load(folder) as llm:
        monkeypatch.setattr(Tokenizer, "encode_bare", None)  # nobody gets that far
        with refused(errors.ContextLengthError, "messages", "1000000 characters", "max_model_len 64"):
            llm.chat([{"role": "user", "content": "a"}])


def test_whole_characters_that_json_spells_in_halves_are_text(folder: Path) -> None:
    template = "{{ messages[0].content }}\U0001f600"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with load(folder) as llm:
        assert llm.chat([{"role": "user", "content": "a"}], SamplingParams(temperature=0, max_tokens=1))


def replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


GROWING: dict[str, dict[str, Any]] = {
    "replacements": {"normalizer": {"type": "Sequence", "normalizers": [replaced({"String": "a"}, "a" * 50)] * 6}},
    "at every place": {"normalizer": replaced({"Regex": ""}, "b" * 1000)},
    "in front": {"normalizer": {"type": "Prepend", "prepend": "x" * 1_000_000}},
    "decoded": {"decoder": {"type": "Sequence", "decoders": [replaced({"String": "a"}, "a" * 20)] * 2}},
}


@pytest.mark.parametrize("name", GROWING)
def test_tokenizer_that_makes_gigabytes_of_a_letter_is_refused(name: str, folder: Path) -> None:
    edit_json(folder / "tokenizer.json", lambda data: data.update(GROWING[name]))
    with refused(errors.ModelError, "tokenizer.json", next(iter(GROWING[name])), "times as long"):
        load(folder)


def far_id(data: dict[str, Any]) -> None:
    data["model"]["vocab"]["zzz"] = 2**31


def far_added_id(data: dict[str, Any]) -> None:
    data["added_tokens"][0]["id"] = 10**9


def prefix_of_no_merge(data: dict[str, Any]) -> None:
    data["model"]["continuing_subword_prefix"] = "\0"


@pytest.mark.parametrize(
    ("spoil", "word"),
    [(far_id, "2147483648"), (far_added_id, "1000000000"), (prefix_of_no_merge, "continuing_subword")],
)
def test_tokenizer_that_its_library_would_not_survive_is_refused(
    spoil: Callable[[dict[str, Any]], None], word: str, folder: Path
) -> None:
    edit_json(folder / "tokenizer.json", spoil)
    with refused(errors.ModelError, "tokenizer.json", word):
        load(folder)


FAILING: dict[str, tuple[dict[str, Any], str]] = {
    "nothing for the unknown": (
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}, "post_processor": None},
        "UNK",
    ),
    "a pattern without end": (
        {
            "pre_tokenizer": {
                "type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False,
            }
        },
        "retry-limit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
def test_tokenizer_that_fails_on_a_text_fails_that_request_alone(name: str, folder: Path) -> None:
    parts, word = FAILING[name]
    edit_json(folder / "tokenizer.json", lambda data: data.update(parts))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    text = "a" * 60 + "b"
    with load(folder) as llm:
        for ask in (llm.generate, lambda text: llm.chat([{"role": "user", "content": text}])):
            with refused(errors.UsageError, "tokenizer", word):
                ask(text)
        output = llm.generate([GOOD], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))[0]
        assert output.outputs[0].token_ids == expected_tokens(llm)


def test_tokenizer_that_fails_on_tokens_is_an_error_of_the_model(folder: Path) -> None:
    decoders = [{"type": "Fuse"}, {"type": "Strip", "content": "x", "start": 0, "stop": 1}]
    edit_json(folder / "tokenizer.json", lambda data: data.update(decoder={"type": "Sequence", "decoders": decoders}))
    tokenizer = Tokenizer.find(folder)
    assert tokenizer is not None
    with refused(errors.ModelError, "tokenizer", "tokens", "out of bounds"):
        tokenizer.decode([])  # of nothing it takes the last character


def test_tokenizer_that_cannot_be_read_is_refused_before_weights_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    monkeypatch.setattr(build, "load_weights", lambda *given, **named: loads.append(given))
    (folder / "tokenizer.json").write_text('{"model": 5')
    with refused(errors.ModelError, "tokenizer.json"):
        load(folder)
    assert not loads


# -------------------------------------------------------------------------------------------------- the weights


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and data."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_file(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def cut_at(size: float) -> Callable[[Path], None]:
    """Cut a file to `size` bytes, or to a share of its own if that is no integer."""

    def spoil(path: Path) -> None:
        os.truncate(path, size if isinstance(size, int) else int(path.stat().st_size * size))

    spoil.__name__ = f"cut_at_{size}"
    return spoil


def cut_one_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 40)


def garbage_header(path: Path) -> None:
    header, data = header_of(path)
    write_file(path, b"\xfe" * len(json.dumps(header)), data)


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**63) + path.read_bytes()[8:])


def header_past_the_end(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", path.stat().st_size) + path.read_bytes()[8:])


def negative_header(path: Path) -> None:
    path.write_bytes(struct.pack("<q", -1) + path.read_bytes()[8:])


def header_no_object(path: Path) -> None:
    write_file(path, b"[1,2,3]", b"")


def deep_header(path: Path) -> None:
    write_file(path, b'{"a":' + b"[" * 50_000, b"")


def duplicate_tensor(path: Path) -> None:
    header, data = header_of(path)
    text = json.dumps(header)
    name = "model.norm.weight"
    write_file(path, f'{{"{name}": {json.dumps(header[name])}, {text[1:]}'.encode(), data)


def overlapping(path: Path) -> None:
    header, data = header_of(path)
    norms = [header[f"model.layers.0.{which}.weight"] for which in ("input_layernorm", "post_attention_layernorm")]
    norms[0]["data_offsets"] = norms[1]["data_offsets"]
    write_file(path, json.dumps(header).encode(), data)


def offsets_past_the_end(path: Path) -> None:
    header, data = header_of(path)
    last = max((entry for name, entry in header.items() if name != "__metadata__"), key=lambda e: e["data_offsets"])
    last["data_offsets"] = [offset + 4096 for offset in last["data_offsets"]]
    write_file(path, json.dumps(header).encode(), data)


def negative_offsets(path: Path) -> None:
    header, data = header_of(path)
    header["model.norm.weight"]["data_offsets"] = [-256, 0]
    write_file(path, json.dumps(header).encode(), data)


def shape_that_disagrees_with_the_bytes(path: Path) -> None:
    header, data = header_of(path)
    header["model.norm.weight"]["shape"] = [65]
    write_file(path, json.dumps(header).encode(), data)


def huge_shape(path: Path) -> None:
    header, data = header_of(path)
    header["model.norm.weight"]["shape"] = [2**62, 2**62]
    write_file(path, json.dumps(header).encode(), data)


def entry_without_offsets(path: Path) -> None:
    header, data = header_of(path)
    del header["model.norm.weight"]["data_offsets"]
    write_file(path, json.dumps(header).encode(), data)


FILE_FAULTS = (
    cut_at(0),
    cut_at(5),
    cut_at(8),
    cut_at(300),
    cut_at(0.5),
    cut_at(0.99),
    cut_one_byte,
    garbage,
    garbage_header,
    huge_header,
    header_past_the_end,
    negative_header,
    header_no_object,
    deep_header,
    duplicate_tensor,
    overlapping,
    offsets_past_the_end,
    negative_offsets,
    shape_that_disagrees_with_the_bytes,
    huge_shape,
    entry_without_offsets,
)


@pytest.mark.parametrize("spoil", FILE_FAULTS, ids=lambda spoil: spoil.__name__)
def test_spoiled_weight_file_is_named(spoil: Callable[[Path], None], folder: Path) -> None:
    path = folder / "model.safetensors"
    spoil(path)
    with refused(errors.CheckpointError, str(path)):
        load(folder)


def test_spoiled_shard_is_named_and_the_others_are_not(shards: Path) -> None:
    first, second, *_ = sorted(shards.glob("model-*.safetensors"))
    cut_one_byte(second)
    with refused(errors.CheckpointError, str(second)):
        load(shards)
    assert first.exists()


def change_index(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "model.safetensors.index.json"
    edit_json(path, edit)
    return path


def test_index_that_names_an_absent_file_names_it(shards: Path) -> None:
    sorted(shards.glob("model-*.safetensors"))[1].unlink()
    with refused(errors.CheckpointError, "index.json", "model-00002", "does not exist"):
        load(shards)


@pytest.mark.parametrize(
    "name",
    [
        *("../model.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "pytorch_model.bin", "", 5, None, []),
        *("a\0.safetensors", "a" * 5000 + ".safetensors"),
    ],
)
def test_index_that_names_a_file_outside_the_folder_is_refused(name: Any, shards: Path) -> None:
    path = change_index(shards, lambda data: data["weight_map"].update({"model.norm.weight": name}))
    with refused(errors.CheckpointError, str(path)):
        load(shards)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": null}', "[" * 100_000])
def test_index_that_is_none_is_refused(content: str, shards: Path) -> None:
    (shards / "model.safetensors.index.json").write_text(content)
    with refused(errors.CheckpointError, "model.safetensors.index.json"):
        load(shards)


def test_index_without_entries_is_refused(shards: Path) -> None:
    change_index(shards, lambda data: data.update(weight_map={}))
    with refused(errors.CheckpointError, "missing"):
        load(shards)


def test_tensor_in_two_shards_is_refused(shards: Path) -> None:
    first, second, *_ = sorted(shards.glob("model-*.safetensors"))
    weights = load_file(second)
    name, tensor = next(iter(load_file(first).items()))
    save_file({**weights, name: tensor.clone()}, second)
    with refused(errors.CheckpointError, name, first.name, second.name):
        load(shards)


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model.pth", "weights.gguf"])
def test_only_files_of_other_kinds_are_named(other: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / other)
    with refused(errors.ModelError, str(folder), "safetensors", other):
        load(folder)


def test_folder_without_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with refused(errors.ModelError, str(folder), "safetensors"):
        load(folder)


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


K_PROJ = "model.layers.0.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    "name", [K_PROJ, "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.input_layernorm.weight"]
)
def test_missing_tensor_is_named(name: str, folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop(name))
    with refused(errors.CheckpointError, name, "missing"):
        load(folder)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", K_PROJ.replace("weight", "bias"), "x"])
def test_extra_tensor_is_named(name: str, folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({name: torch.ones(3)}))
    with refused(errors.CheckpointError, name, "not part"):
        load(folder)


@pytest.mark.parametrize("shape", [(32,), (32, 63), (64, 32), (32, 64, 1), ()])
def test_misshapen_tensor_is_named_with_both_shapes(shape: tuple[int, ...], folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({K_PROJ: torch.ones(shape)}))
    with refused(errors.CheckpointError, K_PROJ, str(list(shape)), "[32, 64]", "model.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.int64, "I64"), (torch.bool, "BOOL"), (torch.float8_e4m3fn, "F8_E4M3")],
)
def test_tensor_of_another_type_is_named_with_its_type(dtype: torch.dtype, name: str, folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({K_PROJ: torch.ones(32, 64).to(dtype)}))
    with refused(errors.CheckpointError, K_PROJ, name, "BF16"):
        load(folder)


def test_rotary_frequencies_of_old_checkpoints_are_ignored(folder: Path) -> None:
    change_weights(
        folder, lambda weights: weights.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    )
    load(folder).close()


# ------------------------------------------------------------------------------------------------- the settings


BIG = 2**63
SETTINGS: dict[str, tuple[dict[str, Any], Kind, tuple[str, ...]]] = {
    "a number that no message takes": ({"max_num_seqs": 2**64}, errors.UsageError, ("max_num_seqs", str(2**64))),
    "a number past all floats": ({"memory_utilization": 10**400}, errors.UsageError, ("memory_utilization", "000")),
    "a path that is no text": ({"download_dir": "/tmp/\udcff"}, errors.UsageError, ("download_dir", "UTF-8", "dcff")),
    "a rule that is no text": ({"kernels": {"rms_norm": "\ud800"}}, errors.UsageError, ("kernels", "ud800")),
    "no sequences": ({"max_num_seqs": 0}, errors.UsageError, ("max_num_seqs", "at least 1", "0")),
    "negative tokens": (
        {"max_num_batched_tokens": -5},
        errors.UsageError,
        ("max_num_batched_tokens", "at least 1", "-5"),
    ),
    "sequences text": ({"max_num_seqs": "8"}, errors.UsageError, ("max_num_seqs", "integer", "'8'")),
    "sequences float": ({"max_num_seqs": 8.0}, errors.UsageError, ("max_num_seqs", "integer", "8.0")),
    "sequences true": ({"max_num_seqs": True}, errors.UsageError, ("max_num_seqs", "integer", "True")),
    "sequences none": ({"max_num_seqs": None}, errors.UsageError, ("max_num_seqs", "integer", "None")),
    "tokens none": ({"max_num_batched_tokens": None}, errors.UsageError, ("max_num_batched_tokens", "None")),
    "block size": ({"block_size": 7}, errors.UsageError, ("block_size", "7", "16")),
    "block size zero": ({"block_size": 0}, errors.UsageError, ("block_size", "at least 1", "0")),
    "blocks zero": ({"num_blocks": 0}, errors.UsageError, ("num_blocks", "at least 1", "0")),
    "blocks float": ({"num_blocks": 4.5}, errors.UsageError, ("num_blocks", "integer", "4.5")),
    "both cache sizes": (
        {"kv_cache_memory_bytes": 1 << 20},
        errors.UsageError,
        ("num_blocks", "kv_cache_memory_bytes", "one"),
    ),
    "cache too small": (
        {"num_blocks": None, "kv_cache_memory_bytes": 100},
        errors.CapacityError,
        ("KV cache", "100", "kv_cache_memory_bytes"),
    ),
    "longer than the model": ({"max_model_len": 513}, errors.UsageError, ("max_model_len", "512", "513")),
    "longer than the cache": (
        {"max_model_len": 129},
        errors.CapacityError,
        ("max_model_len 129", "128", "num_blocks", "9"),
    ),
    "length zero": ({"max_model_len": 0}, errors.UsageError, ("max_model_len", "at least 1", "0")),
    "unknown setting": ({"max_num_sequences": 4}, errors.UsageError, ("max_num_sequences", "max_num_seqs")),
    "unknown device": ({"device": "abacus"}, errors.UsageError, ("device", "'abacus'", "cpu")),
    "device none": ({"device": None}, errors.UsageError, ("device", "None")),
    "device number": ({"device": 3}, errors.UsageError, ("device", "3")),
    "unknown dtype": ({"dtype": "int9"}, errors.UsageError, ("dtype", "'int9'", "bfloat16")),
    "integer dtype": ({"dtype": "int32"}, errors.UsageError, ("dtype", "'int32'")),
    "dtype of torch": ({"dtype": torch.int8}, errors.UsageError, ("dtype", "torch.int8")),
    "dtype none": ({"dtype": None}, errors.UsageError, ("dtype", "None")),
    "load format": ({"load_format": "pickle"}, errors.UsageError, ("load_format", "'pickle'", "dummy")),
    "fallback": ({"fallback": "maybe"}, errors.UsageError, ("fallback", "'maybe'", "allow")),
    "seed text": ({"seed": "x"}, errors.UsageError, ("seed", "'x'")),
    "seed float": ({"seed": 1.5}, errors.UsageError, ("seed", "1.5")),
    "seed none": ({"seed": None}, errors.UsageError, ("seed", "None")),
    "plugins number": ({"plugins": 5}, errors.UsageError, ("plugins", "5")),
    "kernels text": ({"kernels": "rms_norm=x"}, errors.UsageError, ("kernels", "'rms_norm=x'")),
    "unknown kernel op": ({"kernels": {"rms_nrm": ("reference",)}}, errors.UsageError, ("rms_nrm",)),
    "revision number": ({"revision": 5}, errors.UsageError, ("revision", "5")),
    "huge sequences": ({"max_num_seqs": BIG}, errors.CapacityError, ("max_num_seqs", str(BIG))),
    "huge tokens": ({"max_num_batched_tokens": BIG}, errors.CapacityError, ("max_num_batched_tokens", str(BIG))),
    "huge blocks": ({"num_blocks": BIG}, errors.CapacityError, ("num_blocks", str(BIG))),
    "huge cache": (
        {"num_blocks": None, "kv_cache_memory_bytes": 1 << 50},
        errors.CapacityError,
        ("kv_cache_memory_bytes", str(1 << 50)),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_that_cannot_be_used_is_refused_by_name_and_value(name: str, original: Path) -> None:
    settings, kind, words = SETTINGS[name]
    with refused(kind, *words):
        load(original, **settings)


# --------------------------------------------------------------------------------------------------- parameters


NAN, INF = float("nan"), float("inf")
PARAMETERS: dict[str, tuple[Any, ...]] = {
    "temperature": (NAN, INF, -INF, -0.1, -1, None, "1", True, [1.0], 1j),
    "seed": (-2, 2**63, 1.0, NAN, INF, "1", True, [1]),
    "n": (0, -1, 65, 1.0, NAN, INF, None, "2", True, [1]),
    "top_k": (-2, 2**31, 1.0, NAN, INF, None, "5", True),
    "top_p": (0, 0.0, -0.1, 1.01, NAN, INF, None, "1", True),
    "min_p": (-0.1, 1.01, NAN, INF, None, "0", False),
    "repetition_penalty": (0, -1, NAN, INF, None, "1", True),
    "frequency_penalty": (-2.01, 2.01, NAN, INF, None, "1", True),
    "presence_penalty": (-2.01, 2.01, NAN, -INF, None, "1", True),
    "logit_bias": (5, "5", [5], {-1: 1}, {1.0: 1}, {"1": 1}, {1: "1"}, {1: True}, {1: NAN}, [(1, 1), (1, 2)]),
    "allowed_token_ids": (5, "5", [], [-1], [1.0], ["a"], [True], [None], {1}),
    "bad_words": (5, "word", [""], [5], [None], ["a", ""], {"a"}),
    "max_tokens": (0, -1, 2**31, 1.5, NAN, INF, "16", True),
    "min_tokens": (-1, 2**31, 1.5, NAN, INF, None, "1", True),
    "stop_token_ids": (5, "5", [-1], [1.0], ["a"], [True], [None], {1}, [NAN]),
    "stop": (5, "", [""], ["a", ""], [None], ["x" * 257], ["x"] * 17, "\ud800", {"a"}, True),
    "include_stop_str_in_output": (None, 0, 1, "true", NAN),
    "ignore_eos": (None, 0, 1, "true", NAN),
    "logprobs": (-1, 21, 1.0, NAN, INF, "5", True),
    "prompt_logprobs": (-1, 21, 1.0, NAN, INF, "5", False),
    "skip_special_tokens": (None, 0, 1, "no", NAN),
}


def test_every_parameter_is_in_the_table_of_faults() -> None:
    assert set(PARAMETERS) == {item.name for item in parameters()}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in PARAMETERS.items() for value in values], ids=repr
)
def test_parameter_that_cannot_be_used_is_refused_by_name_and_value(name: str, value: Any) -> None:
    with refused(errors.UsageError, f"{name} must be", f"got {shown(value)}"):
        SamplingParams(**{name: value})


def test_legal_range_is_in_the_message() -> None:
    for name, value, words in (
        ("temperature", -1, (">= 0", "finite")),
        ("n", 0, ("1..64",)),
        ("top_k", -2, ("-1..",)),
        ("top_p", 0, ("(0, 1]",)),
        ("min_p", 2, ("[0, 1]",)),
        ("repetition_penalty", 0, ("> 0", "finite")),
        ("frequency_penalty", 3, ("[-2, 2]",)),
        ("presence_penalty", 3, ("[-2, 2]",)),
        ("logit_bias", {-1: 1}, ("token ids >= 0",)),
        ("allowed_token_ids", [], ("at least one token id", "None")),
        ("bad_words", [""], ("not empty",)),
        ("min_tokens", -1, ("0..",)),
        ("seed", -2, ("-1", str(2**63 - 1), "None")),
        ("max_tokens", 0, ("1..",)),
        ("logprobs", 21, ("0..20", "None")),
        ("prompt_logprobs", 21, ("0..20", "None")),
        ("stop_token_ids", [-1], ("token ids",)),
        ("stop", [""], ("at most 16 texts", "1 to 256 bytes")),
        ("ignore_eos", 1, ("true or false",)),
        ("skip_special_tokens", 1, ("true or false",)),
    ):
        with refused(errors.UsageError, *words):
            SamplingParams(**{name: value})


def test_parameters_at_the_ends_of_their_ranges_are_taken() -> None:
    SamplingParams(temperature=0, seed=-1, max_tokens=1, logprobs=0, prompt_logprobs=0, stop_token_ids=())
    SamplingParams(temperature=1e308, seed=2**63 - 1, max_tokens=2**31 - 1, logprobs=20, prompt_logprobs=20)
    SamplingParams(seed=None, logprobs=None, prompt_logprobs=None, max_tokens=None, stop_token_ids=[0])


# ------------------------------------------------------------------------------------------------------ prompts


@pytest.fixture(scope="module", params=DEVICES)
def llm(request: pytest.FixtureRequest, original: Path) -> Iterator[LLM]:
    with load(original, device=require(request.param)) as llm:
        yield llm


GOOD = [5, 6, 7]
PROMPTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "too long": ([5] * 64, ("64 tokens", "max_model_len 64", "63")),
    "much too long": ([5] * 10_000, ("10000 tokens", "max_model_len 64")),
    "text too long": ("the other " * 500, ("tokens", "max_model_len 64")),
    "text far too long": ("the other " * 500_000, ("characters", "max_model_len 64")),
    "empty ids": ({"prompt_token_ids": []}, ("empty", "at least one")),
    "empty list": ([], ("empty", "at least one")),
    "id past the vocabulary": ([5, VOCAB_SIZE], ("prompts[1][1]", "token id", f"0..{VOCAB_SIZE - 1}", str(VOCAB_SIZE))),
    "huge id": ([2**70], ("token id", f"0..{VOCAB_SIZE - 1}", str(2**70))),
    "negative id": ([-1, 5], ("prompts[1][0]", "token id", f"0..{VOCAB_SIZE - 1}", "-1")),
    "bool id": ([5, True], ("token id", "True")),
    "float id": ([5, 6.0], ("token id", "6.0")),
    "nan id": ([NAN], ("token id", "nan")),
    "text among ids": ([5, "6"], ("token id", "'6'")),
    "none among ids": ([5, None], ("token id", "None")),
    "number": (5, ("text", "5")),
    "none": (None, ("text", "None")),
    "bytes": (b"abc", ("text", "b'abc'")),
    "mapping without ids": ({"cache_salt": "x"}, ("prompt_token_ids", "prompt")),
    "mapping with more": ({"prompt_token_ids": [5], "n": 1}, ("prompt_token_ids", "n")),
    "mapping of text": ({"prompt_token_ids": "5 6"}, ("'5 6'",)),
    "surrogate": ("\ud800", ("surrogate",)),
}


def still_alive(llm: LLM) -> None:
    """The engine's books balance and it generates as ever."""
    check_idle(llm)
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    assert [o.outputs[0].token_ids for o in llm.generate([GOOD, GOOD], params)] == [expected_tokens(llm)] * 2


def expected_tokens(llm: LLM) -> list[int]:
    """What Transformers makes of GOOD."""
    return Reference(llm.blueprint.folder).greedy(GOOD, 4)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_that_cannot_be_used_is_refused_and_the_engine_lives_on(name: str, llm: LLM) -> None:
    prompt, words = PROMPTS[name]
    kind = errors.ContextLengthError if "too long" in name else errors.UsageError
    with refused(kind, "prompts[1]", *words):
        llm.generate([GOOD, prompt], SamplingParams(temperature=0, max_tokens=4))
    still_alive(llm)


def test_whole_argument_that_is_no_prompt_is_refused(llm: LLM) -> None:
    for prompts in (5, None, 1.5, {5, 6}):
        with refused(errors.UsageError, "prompts must be", repr(prompts)):
            llm.generate(prompts)
    for prompts in ([5, True], [5, 1.0], b"abc"):
        with refused(errors.UsageError, "prompts"):
            llm.generate(prompts)
    assert llm.generate([]) == []
    still_alive(llm)


def test_parameters_that_do_not_match_the_prompts_are_refused(llm: LLM) -> None:
    with refused(errors.UsageError, "sampling_params", "1 entries for 2 prompts"):
        llm.generate([GOOD, GOOD], [SamplingParams()])
    for wrong in ({"temperature": 0}, 0.5, "greedy", 0, False, {}, [None, None], [SamplingParams(), 3]):
        with refused(errors.UsageError, "sampling_params"):
            llm.generate([GOOD, GOOD], wrong)
    still_alive(llm)


def test_stop_token_outside_the_vocabulary_is_refused(llm: LLM) -> None:
    with refused(errors.UsageError, "stop_token_ids", f"0..{VOCAB_SIZE - 1}", str(VOCAB_SIZE)):
        llm.generate([GOOD], SamplingParams(stop_token_ids=[VOCAB_SIZE]))
    still_alive(llm)


def test_longest_prompt_that_fits_is_taken(llm: LLM) -> None:
    output = llm.generate([[5] * 63], SamplingParams(temperature=0, max_tokens=10))[0].outputs[0]
    assert (len(output.token_ids), output.finish_reason) == (1, "length")


def test_text_without_a_tokenizer_says_what_to_pass(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with load(folder) as llm:
        with refused(errors.UsageError, "prompts[0]", "tokenizer.json", "token ids"):
            llm.generate("a text")
        output = llm.generate([GOOD], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, logprobs=1))[0]
        assert output.outputs[0].token_ids == expected_tokens(llm)
        assert output.outputs[0].text == ""
        assert {entry.decoded_token for entry in output.outputs[0].logprobs[0].values()} == {None}


class Stopped(Exception):
    """A caller's progress that has had enough."""


class Impatient:
    """Raises in the given call."""

    def __init__(self, where: str) -> None:
        self._where = where

    def start(self, label: str, total: int, unit: str) -> None:
        self._maybe("start")

    def advance(self, amount: int) -> None:
        self._maybe("advance")

    def finish(self) -> None:
        self._maybe("finish")

    def _maybe(self, where: str) -> None:
        if where == self._where:
            raise Stopped(where)


@pytest.mark.parametrize("where", ["start", "advance", "finish"])
def test_caller_that_breaks_off_leaves_the_engine_as_it_was(where: str, original: Path, device: str) -> None:
    with load(original, device=device) as llm:
        with pytest.raises(Stopped):
            llm.generate([GOOD, GOOD], SamplingParams(temperature=0, max_tokens=20), progress=Impatient(where))
        still_alive(llm)


def test_closed_engine_says_so_and_closing_twice_is_harmless(original: Path, device: str) -> None:
    llm = load(original, device=device)
    llm.close()
    llm.close()
    with pytest.raises(errors.AphroditeError, match="closed"):
        llm.generate([GOOD])


def test_faulty_load_leaves_a_process_that_loads_the_sound_one(folder: Path, original: Path, device: str) -> None:
    cut_one_byte(folder / "model.safetensors")
    for _ in range(3):
        with refused(errors.CheckpointError, "model.safetensors"):
            load(folder, device=device)
    with load(original, device=device) as llm:
        still_alive(llm)
