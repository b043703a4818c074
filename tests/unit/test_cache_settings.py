"""The settings of cache and scheduler: refused by name when wrong, and flags of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aphrodite.cli.parse import Words, call, find_command
from aphrodite.config.engine import config_from
from aphrodite.errors import UsageError


@pytest.mark.parametrize("wrong", [{"enable_prefix_caching": 1}, {"scheduling_policy": "lifo"}])
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"{name} must be") as caught:
        config_from(wrong)
    assert caught.value.subject == name


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ([], {}),
        (["--no-enable-prefix-caching"], {"enable_prefix_caching": False}),
        (["--enable-prefix-caching"], {"enable_prefix_caching": True}),
        (["--scheduling-policy", "priority"], {"scheduling_policy": "priority"}),
    ],
)
def test_flags_set_them(flags: list[str], settings: dict[str, Any]) -> None:
    command, _ = find_command(["explain"])
    assert call(command, Words(command, flags)).settings == settings
    config_from(settings)


@pytest.mark.parametrize(
    ("flags", "share"),
    [
        (["--memory-utilization", "0.5"], 0.5),
        (["--gpu-memory-utilization", "0.5"], 0.5),
        (["--gpu-memory-utilization=1"], 1.0),
        (["--gpu-memory-utilization", "auto"], None),
        (["--gpu-memory-utilization", "0.5", "--memory-utilization", "0.6"], 0.6),  # as any flag: the last counts
    ],
)
def test_the_share_of_the_memory_has_a_name_that_users_know(flags: list[str], share: float | None) -> None:
    command, _ = find_command(["run"])
    assert config_from(call(command, Words(command, flags)).settings).cache.memory_utilization == share


@pytest.mark.parametrize("flags", [["--gpu-memory-utilization", "0"], ["--gpu-memory-utilization", "90%"]])
def test_a_wrong_share_is_refused(flags: list[str]) -> None:
    command, _ = find_command(["run"])
    with pytest.raises(UsageError, match=r"^memory_utilization must be a finite number in \(0, 1\] or auto, got"):
        call(command, Words(command, flags))


def test_a_file_may_use_either_name_but_not_both(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    command, _ = find_command(["run"])
    path.write_text("gpu_memory_utilization: 0.5\n")
    found = call(command, Words(command, ["--config", str(path)]))
    assert found.settings["memory_utilization"] == 0.5
    path.write_text("memory_utilization: 0.5\ngpu_memory_utilization: 0.6\n")
    with pytest.raises(UsageError, match=r"settings\.yaml:2: gpu_memory_utilization is another name of memory_util"):
        call(command, Words(command, ["--config", str(path)]))
