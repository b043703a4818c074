"""Default, file, environment, flag: which value counts, and what a wrong one is answered with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from aphrodite.cli.command import Call
from aphrodite.cli.commands import COMMANDS
from aphrodite.cli.help import first_page, topic_page
from aphrodite.cli.parse import Words, call, find_command
from aphrodite.config import env
from aphrodite.config.engine import Section, config_from, setting
from aphrodite.config.layers import make
from aphrodite.config.table import GROUPS, section_group
from aphrodite.errors import UsageError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in env.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def parsed(*words: object) -> Call:
    command, rest = find_command([str(word) for word in words])
    return call(command, Words(command, rest))


def origin(found: Call, name: str) -> str:
    return next(given.origin for entry, given in found.values.items() if entry.name == name and entry.env)


def test_a_flag_goes_before_the_environment_that_before_a_file_that_before_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "device" not in parsed("explain", "m").settings
    file.write_text("# a comment\ndevice: from-file\n")
    found = parsed("explain", "m", "--config", file)
    assert (found.settings["device"], origin(found, "device")) == ("from-file", f"file {file}:2")
    monkeypatch.setenv("APHRODITE_TARGET_DEVICE", "from-environment")
    found = parsed("explain", "m", "--config", file)
    assert found.settings["device"] == "from-environment"
    assert origin(found, "device") == "environment APHRODITE_TARGET_DEVICE"
    found = parsed("explain", "m", "--config", file, "--device", "auto")
    assert (found.settings["device"], origin(found, "device")) == ("auto", "flag --device")
    assert config_from(found.settings).device.device == "auto"


def test_a_library_takes_what_nobody_gave_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APHRODITE_TARGET_DEVICE", "toy")
    monkeypatch.setenv("APHRODITE_PLUGINS", "-cpu")
    monkeypatch.setenv("APHRODITE_CACHE", "/models")
    monkeypatch.setenv("APHRODITE_LOG", "no level at all")  # the command line's alone
    config = config_from({"plugins": "toy"})
    assert (config.device.device, config.device.plugins, config.model.download_dir) == ("toy", "toy", "/models")


def test_a_file_spells_values_as_yaml_or_as_a_flag_would(file: Path) -> None:
    file.write_text(
        "model: here\nmax_model_len: 32K\nmax_num_seqs: 8\nblock_size: auto\nenable_prefix_caching: false\n"
        "kernels: {rms_norm: reference, linear: [acme.*, portable]}\nquiet: true\n"
        "sampling:\n  temperature: 1e-3\n  seed: 7\n  max_tokens: null\n  stop: ['a: b', c]\n"
        "  logit_bias: {5: 1.5}\n  ignore_eos: true\n"
    )
    found = parsed("generate", "--config", file)
    config = config_from(found.settings)
    assert (config.model.model, config.model.max_model_len, config.scheduler.max_num_seqs) == ("here", 32768, 8)
    assert (config.cache.block_size, config.cache.enable_prefix_caching) == (None, False)
    assert config.device.kernels == {"rms_norm": ("reference",), "linear": ("acme.*", "portable")}
    assert found.quiet
    sampling = found.sampling()
    assert (sampling.temperature, sampling.seed, sampling.max_tokens) == (1e-3, 7, None)
    assert (sampling.stop, sampling.logit_bias, sampling.ignore_eos) == (("a: b", "c"), ((5, 1.5),), True)
    assert sampling.given == {"temperature", "seed", "max_tokens", "stop", "logit_bias", "ignore_eos"}


def test_flags_spell_every_kind_of_value() -> None:
    sampling = parsed(
        *("generate", "m", "--temperature", "0.5", "--stop", "a", "--stop", "b,c", "--logit-bias", "15=-100,7=2.5"),
        *("--allowed-token-ids", "1,2", "--max-tokens", "1k", "--max-tokens=none", "--no-skip-special-tokens"),
    ).sampling()
    assert (sampling.temperature, sampling.stop, sampling.max_tokens) == (0.5, ("a", "b,c"), None)
    assert sampling.logit_bias == ((15, -100.0), (7, 2.5)) and sampling.allowed_token_ids == (1, 2)
    assert not sampling.skip_special_tokens
    settings = parsed("explain", "m", "--kernels", "rms_norm=a.*,reference", "--kernels", "rope=b.x").settings
    assert settings["kernels"] == {"rms_norm": ("a.*", "reference"), "rope": ("b.x",)}


def test_a_command_has_defaults_of_its_own() -> None:
    assert parsed("chat", "m").sampling().max_tokens is None
    assert parsed("chat", "m", "--max-tokens", "5").sampling().max_tokens == 5
    assert parsed("generate", "m").sampling().max_tokens == 16


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_num_seq: 3", ":1: there is no setting 'max_num_seq'; did you mean max_num_seqs?"),
        ("\nmax-num-seqs: 3", ":2: there is no setting 'max-num-seqs'; did you mean max_num_seqs?"),
        ("engine_seed: 3", "did you mean seed?"),
        ("temperature: 3", "did you mean sampling.temperature?"),
        ("sampling: {temperatuur: 3}", "'sampling.temperatuur'; did you mean sampling.temperature?"),
        ("sampling: {device: cpu}", "'sampling.device'; did you mean device?"),
        ("xyzzy: 3", "there is no setting 'xyzzy'; `aphrodite --help all` lists them"),
        ("scheduler: {max_num_seqs: 3}", "settings stand at the top"),
        ("seed: 1\nseed: 2", ":2: seed stands a second time, first in line 1"),
        ("sampling: 3", "sampling must be a mapping"),
        ("- a", "the file must be a mapping"),
        ("a: [", ": this is no YAML"),
        ("a: *b", ": this is no YAML"),
        ("a: !!python/object/apply:os.system ['true']", ": this is no YAML"),
        ("a: 2001-99-99", ": this is no YAML"),
        ("[" * 20000, ": this is no YAML"),
        ("1: 2", "there is no setting '1'"),
        ("{[a]: 2}", ": this is no YAML"),
        ("device: no", ":1: device must be text, got False"),
        ("offline: 1", ":1: offline must be true or false, got 1"),
        ("stop: x", "did you mean sampling.stop?"),
        ("kernels: [a]", "kernels must map"),
        ("kernels: {a: 3}", "kernels must map"),
        ("sampling: {max_tokens: 5, min_tokens: 9}", "min_tokens must be in 0..max_tokens"),
    ],
)
def test_a_wrong_file_is_refused_with_line_name_and_remedy(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        parsed("generate", "m", "--config", file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_files_that_cannot_be_read_are_refused(file: Path, tmp_path: Path) -> None:
    for path in (file, tmp_path, "a\0b", "~nosuchuser/x"):
        with pytest.raises(UsageError, match=r"config .* cannot be read"):
            parsed("generate", "m", "--config", path)
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match=r"config .* cannot be read"):
        parsed("generate", "m", "--config", file)
    file.write_text("")
    assert parsed("generate", "m", "--config", file).settings == {"model": "m"}


@pytest.mark.parametrize(
    ("key", "flag", "value"),
    [
        ("max_num_seqs", "--max-num-seqs", "abc"),
        ("max_model_len", "--max-model-len", "0"),
        ("steps_in_flight", "--steps-in-flight", "9"),
        ("load_format", "--load-format", "gold"),
        ("sampling.temperature", "--temperature", "-1"),
        ("sampling.top_k", "--top-k", "x"),
        ("sampling.max_tokens", "--max-tokens", "0"),
    ],
)
def test_a_file_is_refused_in_the_words_of_the_flag(file: Path, key: str, flag: str, value: str) -> None:
    with pytest.raises(UsageError) as by_flag:
        parsed("generate", "m", flag, value)
    mapping, _, name = key.rpartition(".")
    file.write_text(f"{mapping}:\n  {name}: '{value}'\n" if mapping else f"{name}: '{value}'\n")
    with pytest.raises(UsageError) as by_file:
        parsed("generate", "m", "--config", file)
    assert str(by_file.value) == f"{file}:{2 if mapping else 1}: {by_flag.value}"
    assert by_file.value.subject == by_flag.value.subject == name


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APHRODITE_LOG", "loud")
    with pytest.raises(UsageError, match="APHRODITE_LOG: log_level must be one of debug, info, warning, error"):
        parsed("plugins")
    monkeypatch.setenv("APHRODITE_LOG", "INFO")
    assert parsed("plugins").log_level == "info"


def test_what_a_command_does_not_use_is_checked_and_reported(file: Path) -> None:
    file.write_text("sampling: {temperature: 2}\nmax_num_seqs: 3\n")
    found = parsed("explain", "m", "--config", file)
    assert [entry.key for entry in found.unused] == ["sampling.temperature"]
    assert found.settings == {"model": "m", "max_num_seqs": 3}
    file.write_text("sampling: {temperature: -2}\n")
    with pytest.raises(UsageError, match="temperature must be"):
        parsed("explain", "m", "--config", file)


def test_names_are_unique_and_only_the_five_variables_are_read() -> None:
    for command in COMMANDS:
        flags = [entry.flag for entry in command.entries if entry.flag]
        assert len(flags) == len(set(flags)), command.name
    keys = [entry.key for group in GROUPS for entry in group.entries]
    assert len(keys) == len(set(keys))
    assert {entry.env for group in GROUPS for entry in group.entries} - {None} <= set(env.VARIABLES)
    assert set(env.VARIABLES) == {
        f"APHRODITE_{name}" for name in ("TARGET_DEVICE", "PLUGINS", "API_KEYS", "CACHE", "LOG")
    }


@dataclass(frozen=True)
class Doors(Section):
    """A section that nobody knows but this test."""

    host: str = setting("localhost", "Where to listen.", metavar="NAME")
    timeout_s: float = setting(30.0, "How long to wait.", low=0, is_common=True)
    origins: tuple[str, ...] = setting((), "Who may ask; again for another one.")


def test_a_new_section_is_a_dataclass_and_a_line(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    doors = section_group("doors", "what a door needs", Doors)
    command = replace(COMMANDS[0], groups=(*COMMANDS[0].groups, doors))
    words = ("m", "--timeout-s", "2.5", "--origins", "a", "--origins", "b")
    found = call(command, Words(command, words))
    assert make(doors, found.values) == Doors(timeout_s=2.5, origins=("a", "b"))
    page = first_page(command)
    assert (
        "--timeout-s X" in page
        and "at least 0" in topic_page("timeout", [command])
        and "[default 30.0; key timeout_s]" in page
        and "\n  doors " in page
    )
    for wrong in ("-1", "inf", "nan", "soon"):
        with pytest.raises(UsageError, match="timeout_s must be a finite number"):
            call(command, Words(command, ("m", f"--timeout-s={wrong}")))
    monkeypatch.setattr("aphrodite.config.file.GROUPS", (*GROUPS, doors))
    monkeypatch.setattr("aphrodite.config.table.GROUPS", (*GROUPS, doors))
    file.write_text("timeout_s: 1e1\norigins: [c]\n")
    found = call(command, Words(command, ("m", "--config", str(file))))
    assert make(doors, found.values) == Doors(timeout_s=10.0, origins=("c",))
