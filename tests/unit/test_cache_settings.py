"""The settings of cache and scheduler: refused by name when wrong, and flags of the command line."""

from __future__ import annotations

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
