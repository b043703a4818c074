"""Code that a checkpoint brings is never run, opened or imported, whatever asks for it; what needs it is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.errors import ModelError
from tests.server.process import running
from tests.support.checkpoints import Checkpoints, edit_json, write_json

LIMIT_BYTES = 500 << 20
_CODE = (".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".pkl")
_RUNS = ("exec", "compile", "import", "os.exec", "subprocess.Popen", "ctypes.dlopen", "pickle.find_class")


class Watch:
    """Notes what the interpreter is asked for that has to do with a folder. An audit hook cannot be taken out again, so
    there is one, which looks only while a folder is watched."""

    def __init__(self) -> None:
        self._folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self._folder is None:
            return
        text = " ".join(str(getattr(arg, "co_filename", arg))[:500] for arg in args[:4])
        if event == "open" and isinstance(args[0], str) and args[0].endswith(_CODE) and self._folder in args[0]:
            self.seen.append(f"open {args[0]}")
        elif event in _RUNS and (self._folder in text or "own_code" in text):
            self.seen.append(f"{event} {text}")

    @contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        self._folder, self.seen = str(folder), []
        try:
            yield
        finally:
            self._folder = None


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def original(checkpoints: Checkpoints) -> Path:
    return checkpoints.llama(seed=20, num_hidden_layers=1)


@pytest.fixture
def folder(original: Path, checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A sound checkpoint with code beside it that tells of its being run."""
    found = checkpoints.copy(original, tmp_path / "model")
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit('own code has run')\n"
    for name in ("own_code.py", "__init__.py", "configuration_own.py", "conftest.py", "sitecustomize.py", "torch.py"):
        (found / name).write_text(code)
    return found


MAP = {
    "AutoConfig": "own_code.OwnConfig",
    "AutoModelForCausalLM": "own_code.Own",
    "AutoModel": "somebody/else--own_code.Own",
    "AutoTokenizer": ["own_code.OwnTokenizer", None],
    "AutoProcessor": "own_code.OwnProcessor",
}


def config(folder: Path, **fields: Any) -> None:
    edit_json(folder / "config.json", lambda data: data.update(fields))


def without_page(folder: Path) -> None:
    config(folder, architectures=["OwnForCausalLM"], model_type="own", auto_map=MAP)


def known_to_transformers(folder: Path) -> None:
    config(folder, architectures=["GraniteForCausalLM"], model_type="granite", auto_map=MAP)


def in_a_part(folder: Path) -> None:
    parts = {"text_config": {"vision": {"auto_map": MAP}}, "vision_config": {"auto_map": MAP}}
    config(folder, architectures=["OwnForCausalLM"], model_type="own", **parts)


def in_a_part_of_a_known_one(folder: Path) -> None:
    config(folder, architectures=["GraniteForCausalLM"], model_type="granite", sub_config={"auto_map": MAP})


def tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "OwnTokenizer", "auto_map": MAP})


def tokenizer_of_a_file(folder: Path) -> None:
    tokenizer(folder)
    (folder / "own.tiktoken").write_text("IQ== 0\n")


def pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def old_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.00.pt")


def large_tokenizer(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(LIMIT_BYTES)


def cyclic_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("tokenizer.json")


def deep_tokenizer(folder: Path) -> None:
    inner = '{"type": "Sequence", "pretokenizers": ['
    text = f'{{"version": "1.0", "pre_tokenizer": {inner * 20_000}{"]}" * 20_000}}}'
    (folder / "tokenizer.json").write_text(text)


def cyclic_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")


def cyclic_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")


REFUSED: dict[Callable[[Path], None], tuple[str, ...]] = {
    without_page: ("config.json", "own_code.Own", "trust_remote_code", "auto_map"),
    known_to_transformers: ("config.json", "own_code.Own", "trust_remote_code", "auto_map"),
    in_a_part: ("config.json", "text_config.vision.AutoConfig", "vision_config.AutoModel", "trust_remote_code"),
    in_a_part_of_a_known_one: ("config.json", "sub_config.AutoModelForCausalLM", "trust_remote_code"),
    tokenizer: ("tokenizer_config.json", "own_code.OwnTokenizer", "trust_remote_code", "auto_map"),
    tokenizer_of_a_file: ("tokenizer_config.json", "own_code.OwnTokenizer", "trust_remote_code"),
    pickles: ("pytorch_model.bin", "safetensors", "pickled"),
    old_pickles: ("consolidated.00.pt", "safetensors", "pickled"),
    large_tokenizer: ("tokenizer.json", str(LIMIT_BYTES)),
    cyclic_tokenizer: ("tokenizer.json", "link"),
    deep_tokenizer: ("tokenizer.json",),
    cyclic_config: ("config.json",),
    cyclic_weights: ("model.safetensors",),
}


def load(folder: Path) -> LLM:
    return LLM(str(folder), device="cpu", dtype="float32", num_blocks=16, max_model_len=64)


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_needs_code_of_the_checkpoint_or_cannot_be_read_is_refused(
    spoil: Callable[[Path], None], folder: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder)
    monkeypatch.chdir(folder)  # where an import by name would find it
    with watch.over(folder), pytest.raises(ModelError) as caught:
        load(folder)
    said = str(caught.value)
    print(said)
    assert caught.value.exit_code == 4 and said.isprintable() and len(said) < 1500
    for word in (*REFUSED[spoil], str(folder)):
        assert word in said
    assert not watch.seen and not (folder.parent / "ran").exists()
    assert not any(name in sys.modules for name in ("own_code", "configuration_own", "sitecustomize_own"))


def test_what_only_names_code_runs_without_it(folder: Path, watch: Watch, original: Path) -> None:
    """Checkpoints of an architecture that has a page keep the fields of the time when it had none."""
    config(folder, auto_map=MAP, text_config={"auto_map": MAP}, custom_pipelines={"x": {"impl": "own_code.Pipe"}})
    for name in ("tokenizer_config", "processor_config", "preprocessor_config", "generation_config"):
        fields = {"auto_map": MAP, "tokenizer_class": "OwnTokenizer", "processor_class": "Own"}
        write_json(folder / f"{name}.json", fields)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    asked = SamplingParams(temperature=0, max_tokens=8)
    with watch.over(folder), load(folder) as llm:
        found = llm.generate("the engine", asked)[0].outputs[0]
    with load(original) as llm:
        assert llm.generate("the engine", asked)[0].outputs[0].token_ids == found.token_ids
    assert not watch.seen and not (folder.parent / "ran").exists()


def test_the_watch_sees_what_it_is_there_for(folder: Path, watch: Watch) -> None:
    with watch.over(folder):
        compile((folder / "own_code.py").read_text(), str(folder / "own_code.py"), "exec")
        with pytest.raises(ImportError):
            __import__("own_code_that_is_not_there")
    kinds = {line.split()[0] for line in watch.seen}
    assert kinds == {"open", "compile", "import"}


@pytest.mark.parametrize("spoil", [in_a_part, tokenizer, large_tokenizer], ids=lambda spoil: spoil.__name__)
def test_run_refuses_them_with_one_line_and_exit_code_4(
    spoil: Callable[[Path], None], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder)
    monkeypatch.chdir(tmp_path)
    with running(folder, tmp_path / "log", "--device", "cpu", "--num-blocks", "64", wait=False) as server:
        assert server.popen.wait(60) == 4
    lines = [line for line in server.log.read_text().splitlines() if REFUSED[spoil][0] in line]
    assert len(lines) == 1 and all(word in lines[0] for word in REFUSED[spoil])
    assert "Traceback" not in server.log.read_text() and not (tmp_path / "ran").exists()
