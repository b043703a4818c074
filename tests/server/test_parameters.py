"""What clients send beside our own names: their names, their loose forms, and what of it has no effect."""

from __future__ import annotations

from typing import Any

import pytest

from aphrodite.server.aliases import ALIASES, DETAILS, OFF
from aphrodite.server.errors import ApiError
from aphrodite.server.parameters import read
from aphrodite.types.sampling_params import parameters
from tests.server import clients

NAMES = {item.name for item in parameters()}


def of(**body: Any) -> Any:
    return read(body, own=()).sampling


def ignored(**body: Any) -> tuple[str, ...]:
    return read(body, own=()).ignored


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ({"rep_pen": 1.1}, "repetition_penalty", 1.1),
        ({"repeat_penalty": 1.1}, "repetition_penalty", 1.1),
        ({"max_length": 80}, "max_tokens", 80),
        ({"num_predict": 80}, "max_tokens", 80),
        ({"max_completion_tokens": 80}, "max_tokens", 80),
        ({"stop_sequence": ["a", "b"]}, "stop", ("a", "b")),
        ({"stop": "a"}, "stop", ("a",)),
        ({"sampler_seed": -1}, "seed", -1),
        ({"top_k": -1}, "top_k", -1),
        ({"top_k": 40.0}, "top_k", 40),
        ({"ignore_eos": 1}, "ignore_eos", True),
        ({"ban_eos_token": 0}, "ignore_eos", False),
        ({"logit_bias": {"7": -3}}, "logit_bias", ((7, -3.0),)),
        ({"logit_bias": [[7, -3], [8, False]]}, "logit_bias", ((7, -3.0), (8, -100.0))),
    ],
)
def test_names_and_forms_of_clients_mean_ours(body: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(of(**body), name) == value
    assert ignored(**body) == ()


@pytest.mark.parametrize(
    ("body", "name", "value", "others"),
    [
        ({"rep_pen": 1.2, "repetition_penalty": 1.1}, "repetition_penalty", 1.1, ("rep_pen",)),  # our own goes before
        ({"repetition_penalty": 1.1, "rep_pen": 1.2}, "repetition_penalty", 1.1, ("rep_pen",)),
        ({"max_length": 5, "n_predict": 6, "max_tokens": 7}, "max_tokens", 7, ("n_predict", "max_length")),
        ({"max_length": 7, "n_predict": 7.0, "max_tokens": 7}, "max_tokens", 7, ()),
        ({"sampler_seed": -1, "seed": 42}, "seed", 42, ()),
        ({"stop": "a", "stopping_strings": ["a"]}, "stop", ("a",), ()),
        ({"stop": ["a"], "stopping_strings": []}, "stop", ("a",), ()),
        ({"stop": ["a"], "stopping_strings": ["b"]}, "stop", ("a",), ("stopping_strings",)),
        ({"max_tokens": 7, "max_length": "80"}, "max_tokens", 7, ("max_length",)),
    ],
)
def test_of_two_names_for_one_parameter_that_disagree_the_one_that_does_not_count_is_listed(
    body: dict[str, Any], name: str, value: Any, others: tuple[str, ...]
) -> None:
    assert getattr(of(**body), name) == value
    assert set(ignored(**body)) == set(others)


@pytest.mark.parametrize(("n", "best_of", "is_listed"), [(1, 1, False), (2, 2, False), (2, 3, True), (1, 64, True)])
def test_best_of_is_listed_where_it_asks_for_more_than_n(n: int, best_of: int, is_listed: bool) -> None:
    assert ignored(n=n, best_of=best_of) == (("best_of",) if is_listed else ())


@pytest.mark.parametrize("best_of", [-1, 65, 2**31, 2**64, 1.5, "2", True, [2], {}], ids=repr)
def test_best_of_has_the_bounds_of_n_though_it_has_no_effect(best_of: Any) -> None:
    with pytest.raises(ApiError, match=r"^best_of must be an integer in 0\.\.64, got ") as caught:
        of(best_of=best_of)
    assert caught.value.param == "best_of"
    with pytest.raises(ApiError, match=r"^best_of must be at least n, which is 3, got 2"):
        of(best_of=2, n=3)


def test_what_an_answer_has_no_place_for_is_checked_and_listed() -> None:
    found = read({"n": 3, "logprobs": 0, "best_of": 3}, own=(), unplaced=("n", "logprobs"))
    assert (found.sampling.n, found.sampling.logprobs, set(found.ignored)) == (1, None, {"n", "logprobs"})
    assert read({"n": 1, "logprobs": None}, own=(), unplaced=("n", "logprobs")).ignored == ()
    with pytest.raises(ApiError, match=r"^n must be an integer in 1\.\.64, got 1000000000"):
        read({"n": 10**9}, own=(), unplaced=("n",))


@pytest.mark.parametrize(
    "name", ["top_a", "tfs", "tfs_z", "typical", "typical_p", "mirostat", "mirostat_mode", "nsigma"]
)
def test_a_sampler_that_is_not_here_is_silent_while_it_is_off_and_listed_while_it_is_on(name: str) -> None:
    off = {"top_a": 0, "tfs": 1, "tfs_z": 1.0, "typical": 1, "typical_p": 1.0}.get(name, 0)
    assert ignored(**{name: off}) == ()
    assert ignored(**{name: 0.5 if name not in ("mirostat", "mirostat_mode") else 2}) == (name,)


def test_details_of_what_is_off_are_silent() -> None:
    details: dict[str, Any] = {
        "dry_base": 2, "dry_allowed_length": 3, "dry_sequence_breakers": '["\\n", ":"]', "xtc_threshold": 0.2,
        "mirostat_tau": 8, "smoothing_curve": 2, "dynatemp_exponent": 2, "rep_pen_range": 1024, "adaptive_decay": 0.5,
    }  # fmt: skip
    assert ignored(**details) == ()
    assert ignored(**details, dry_multiplier=0.8) == (
        "dry_base", "dry_allowed_length", "dry_sequence_breakers", "dry_multiplier",
    )  # fmt: skip
    assert ignored(**details, rep_pen=1.1) == ("rep_pen_range",)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"dry_sequence_breakers": '["\\n"'}, "dry_sequence_breakers must be a list of texts"),
        ({"dry_sequence_breakers": "[1]"}, "dry_sequence_breakers must be a list of texts"),
        ({"dry_sequence_breakers": 3}, "dry_sequence_breakers must be a list of texts"),
        ({"rep_pen": 0}, "rep_pen must be a number > 0"),
        ({"rep_pen": "1.1"}, "rep_pen must be a number"),
        ({"ignore_eos": 2}, "ignore_eos must be"),
        ({"ignore_eos": "true"}, "ignore_eos must be"),
        ({"max_length": True}, "max_length must be an integer"),
        ({"stop_sequence": [""]}, "stop_sequence must be"),
        ({"logit_bias": [[7]]}, "logit_bias must be"),
        ({"logit_bias": {"x": 1}}, "logit_bias must map token ids"),
        (
            {"logit_bias": {str(one): 1 for one in range(1025)}},
            "logit_bias must have at most 1024 entries, got 1025",
        ),
        ({"logit_bias": [[token, 1] for token in range(9000)]}, "logit_bias must have at most 1024 entries, got 9000"),
    ],
)
def test_a_refusal_names_what_the_client_sent(body: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError, match="^" + said) as caught:
        of(**body)
    assert caught.value.status == 400 and caught.value.param == next(iter(body))


def test_the_tables_agree_with_the_parameters_that_there_are() -> None:
    assert not NAMES.intersection(ALIASES), "an alias would hide a parameter"
    assert not NAMES.intersection(OFF), "a parameter that is here is never off by being absent"
    assert all(target in NAMES or target in OFF or target in DETAILS for target in ALIASES.values())
    assert all(switch in OFF or switch in NAMES for switches in DETAILS.values() for switch in switches)


@pytest.mark.parametrize("name", clients.COMPLETIONS)
def test_bodies_that_clients_send_are_read_and_what_has_no_effect_is_listed(name: str) -> None:
    client = clients.COMPLETIONS[name]
    found = read(client.body, own=("prompt", "model", "stream"))
    for parameter, value in client.means.items():
        assert getattr(found.sampling, parameter) == value, parameter
    assert set(found.ignored) == client.ignored
