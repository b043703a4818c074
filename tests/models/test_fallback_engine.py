"""What the engine does for every model it does for modules of Transformers; and each token goes through them once."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aphrodite import SamplingParams, resolve
from aphrodite.errors import CheckpointError, KernelError, ModelError
from aphrodite.models.fallback import probe
from aphrodite.models.fallback.run import Modules
from aphrodite.platform.spi import Limits
from tests.support.checkpoints import Checkpoints, edit_json
from tests.support.engines import engine, watch_preemption
from tests.support.parity import check_parity, random_prompts
from tests.support.reference import Reference

Load = Callable[..., Reference]
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
WINDOWS = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 11}
PREFIX = random_prompts((40,), seed=31)[0]
PROMPTS = [[*PREFIX, *tail] for tail in random_prompts((1, 9, 17), seed=32)]


@pytest.fixture
def folder(checkpoints: Checkpoints) -> Path:
    return checkpoints.make("olmo3", **WINDOWS)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that went through the embedding in each step, from now on."""
    counts: list[int] = []
    original = Modules.forward

    def watched(self: Modules, *args: Any) -> None:
        embedding = self.loaded.model.get_input_embeddings()  # type: ignore[operator]
        hook = embedding.register_forward_hook(lambda module, inputs, out: counts.append(inputs[0].numel()))
        try:
            original(self, *args)
        finally:
            hook.remove()

    monkeypatch.setattr(Modules, "forward", watched)
    return counts


def tokens(outputs: Any) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def test_every_prompt_and_new_token_goes_through_the_modules_once(folder: Path, seen: list[int]) -> None:
    prompts = random_prompts((1, 17, 75, 30), seed=3)
    with engine(folder, "cpu") as llm:
        llm.generate(prompts, GREEDY)
    total = sum(map(len, prompts)) + (GREEDY.max_tokens - 1) * len(prompts)  # nobody needs the last token's logits
    assert sum(seen) == total
    assert max(seen) <= 37  # no step was larger than its budget


def test_a_prefix_that_is_cached_does_not_go_through_them_again(folder: Path, seen: list[int]) -> None:
    with engine(folder, "cpu", max_num_batched_tokens=256) as llm:
        cold = llm.generate(PROMPTS, GREEDY)
        del seen[:]
        warm = llm.generate(PROMPTS, GREEDY)
        assert tokens(warm) == tokens(cold)
        cached = [output.num_cached_tokens for output in warm]
        assert all(count >= 32 for count in cached)
        assert sum(seen) == sum(map(len, PROMPTS)) - sum(cached) + (GREEDY.max_tokens - 1) * len(PROMPTS)
        llm.reset_prefix_cache()
        assert tokens([llm.generate([prompt], GREEDY)[0] for prompt in PROMPTS]) == tokens(cold)


def test_preempted_sequences_go_through_them_again_and_end_alike(
    folder: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = random_prompts((15, 16, 1, 30), seed=4)
    params = SamplingParams(temperature=0.8, seed=11, max_tokens=14, ignore_eos=True)
    with engine(folder, "cpu") as llm:
        expected = tokens(llm.generate(prompts, params))
    once = sum(seen)
    del seen[:]
    preempted = watch_preemption(monkeypatch)
    with engine(folder, "cpu", max_model_len=48, cache_tokens=48, max_num_batched_tokens=24) as llm:
        assert tokens(llm.generate(prompts, params)) == expected
    assert preempted
    assert sum(seen) > once


def test_continuations_of_one_prompt_are_those_of_their_lanes(folder: Path) -> None:
    with engine(folder, "cpu") as llm:
        several = SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=8, ignore_eos=True)
        (output,) = llm.generate([PROMPTS[0]], several)
        found = [one.token_ids for one in output.outputs]
        assert len({tuple(one) for one in found}) == 3
        assert [one.token_ids for one in llm.generate([PROMPTS[0]], several)[0].outputs] == found


def test_engines_in_threads_keep_to_their_own_modules(checkpoints: Checkpoints, reference: Load) -> None:
    """Networks of other shapes, and of the same with other weights, step by step at the same time."""
    folders = [
        checkpoints.make("gpt2"),
        checkpoints.make("olmo3", **WINDOWS),
        checkpoints.make("olmo3", **WINDOWS, seed=5),
    ]
    prompts = random_prompts((3, 20), seed=8)
    expected = [[reference(folder).greedy(prompt, 24) for prompt in prompts] for folder in folders]
    found: dict[int, list[list[int]]] = {}
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    start = threading.Barrier(len(folders))

    def run(place: int) -> None:
        start.wait()
        with engine(folders[place], "cpu") as llm:
            start.wait()
            found[place] = tokens(llm.generate(prompts, params))

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(folders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(len(folders))] == expected


def test_loading_leaves_transformers_and_torch_as_they_were(folder: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_default_dtype()
    with engine(folder, "cpu", dtype="bfloat16"):
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), torch.get_default_dtype()) == before


def test_loading_prints_nothing(checkpoints: Checkpoints, capfd: pytest.CaptureFixture[str]) -> None:
    folder = checkpoints.make("olmo3", **WINDOWS, fields={"eos_token_id": 100257})  # of which Transformers would warn
    from transformers.utils import logging

    logging.enable_progress_bar()
    try:
        with engine(folder, "cpu") as llm:
            llm.generate([PREFIX], GREEDY)
    finally:
        logging.disable_progress_bar()
    assert capfd.readouterr() == ("", "")


def test_close_lets_go_of_the_modules(folder: Path) -> None:
    def parameters() -> int:
        return sum(type(one) is torch.nn.Parameter and not one.is_meta for one in gc.get_objects())

    gc.collect()
    before = parameters()
    llm = engine(folder, "cpu")
    llm.generate([PREFIX], GREEDY)
    assert parameters() > before
    gc.disable()
    try:
        llm.close()
        assert parameters() == before
    finally:
        gc.enable()


def test_dummy_weights_run(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints.copy(checkpoints.make("granitemoe"), tmp_path / "dummy")
    (folder / "model.safetensors").unlink()
    with engine(folder, "cpu", load_format="dummy") as one, engine(folder, "cpu", load_format="dummy") as other:
        assert tokens(one.generate(PROMPTS, GREEDY)) == tokens(other.generate(PROMPTS, GREEDY))


def test_experts_are_read_from_either_form(checkpoints: Checkpoints, reference: Load) -> None:
    for fused in (False, True):
        folder = checkpoints.make("olmoe", fused=fused)
        with engine(folder, "cpu") as llm:
            check_parity(llm, reference(folder), random_prompts((3, 20), seed=2), num_tokens=3, label=f"fused {fused}")


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    path = folder / "model.safetensors"
    data = load_file(path)
    edit(data)
    save_file(data, path, metadata={"format": "pt"})
    return folder


NORM = "model.layers.1.post_attention_layernorm.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.pop(NORM), f"'{NORM}': missing"),
        (
            lambda data: data.update({"model.layers.0.extra.weight": torch.ones(3)}),
            r"'model.layers.0.extra.weight': not p",
        ),
        (lambda data: data.update({NORM: torch.ones(63)}), rf"'{NORM}' \(\[63\] instead of \[64\]\): of another shape"),
        (lambda data: data.update({"odd": torch.ones(3, dtype=torch.int8)}), "tensor 'odd' is I8, which is no type of"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    edit: Callable[[dict[str, torch.Tensor]], object],
    message: str,
    folder: Path,
    checkpoints: Checkpoints,
    tmp_path: Path,
) -> None:
    spoilt = edit_tensors(checkpoints.copy(folder, tmp_path / "spoilt"), edit)
    with pytest.raises(CheckpointError, match=message):
        engine(spoilt, "cpu")


def test_masks_that_old_checkpoints_hold_are_passed_over(
    checkpoints: Checkpoints, reference: Load, tmp_path: Path
) -> None:
    """As published ones do: no prefix before names, and masks among the weights."""

    def age(data: dict[str, torch.Tensor]) -> None:
        for name in list(data):
            data[name.removeprefix("transformer.")] = data.pop(name)
        data["h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        data["h.1.attn.masked_bias"] = torch.tensor(-1e4)

    folder = checkpoints.make("gpt2")
    old = edit_tensors(checkpoints.copy(folder, tmp_path / "old"), age)
    with engine(old, "cpu") as llm:
        check_parity(llm, reference(folder), random_prompts((3, 20), seed=2), num_tokens=3)


def test_a_device_whose_memory_is_no_torch_tensor_refuses(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"Olmo3ForCausalLM has no page of its own.*device 'toy' is no torch tensor"):
        engine(folder, "toy")


def test_a_policy_against_torch_forms_is_one_against_modules(folder: Path) -> None:
    with pytest.raises(KernelError, match=r"sites of the forward program have only a torch form"):
        engine(folder, "cpu", fallback="error")


def test_a_user_chooses_the_kernels_of_attention(folder: Path) -> None:
    with engine(folder, "cpu", kernels={"attn_paged": ["reference"]}) as llm:
        plan = llm.blueprint.attention
        assert plan is not None
        served = {
            piece.kernel.provider for piece in plan.at(llm.blueprint.sizes.bounds) if "attn_paged" in piece.call.op.name
        }
    assert served == {"reference"}


def test_lengths_that_would_turn_all_keys_are_refused(checkpoints: Checkpoints, reference: Load) -> None:
    ropes = {
        "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        "longrope": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0 + 0.1 * i for i in range(8)],
            "long_factor": [3.0 + i for i in range(8)],
            "original_max_position_embeddings": 64,
            "factor": 4.0,
        },
    }
    for kind, longest in (("dynamic", 128), ("longrope", 64)):
        folder = checkpoints.make("olmo2", max_position_embeddings=128, rope_parameters=ropes[kind])
        with pytest.raises(ValueError, match=f"max_model_len must be at most {longest}"):
            engine(folder, "cpu", max_model_len=longest + 1)
        with engine(folder, "cpu", max_model_len=longest) as llm:
            check_parity(llm, reference(folder), random_prompts((1, longest - 6, 20), seed=3), num_tokens=5, label=kind)


def test_flow_that_changes_from_step_to_step_is_an_error_and_no_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.olmo3.modeling_olmo3 import Olmo3DecoderLayer

    with engine(folder, "cpu") as llm:
        llm.generate([PREFIX], GREEDY)
        monkeypatch.setattr(Olmo3DecoderLayer, "forward", lambda self, hidden_states, **kwargs: hidden_states)
        with pytest.raises(Exception, match="the modules called attention 0 times, in their trial run 2 times"):
            llm.generate([PREFIX], GREEDY)


def test_modules_that_mix_tokens_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.olmo3.modeling_olmo3 import Olmo3MLP

    original = Olmo3MLP.forward

    def mixing(self: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = original(self, x + 0.01 * x.roll(1, 1))
        return out

    monkeypatch.setattr(Olmo3MLP, "forward", mixing)
    with pytest.raises(ModelError, match="more of a token's neighbours than attention gives"):
        engine(folder, "cpu")


def test_a_trial_run_needs_no_memory_for_the_weights(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """Forty layers of 6 GiB each are looked at like two small ones."""
    from aphrodite.blueprint import draw_up
    from aphrodite.config.engine import config_from

    folder = checkpoints.copy(checkpoints.make("granite"), tmp_path / "large")
    large = {"hidden_size": 1 << 14, "intermediate_size": 1 << 16, "num_hidden_layers": 40}
    edit_json(folder / "config.json", lambda data: data.update(large))
    with pytest.raises(Exception, match=r"\d+ GiB of weights and a KV cache"):
        draw_up(config_from({"model": str(folder), "device": "cpu"}))
    assert probe._TOKENS < 8


def test_a_device_that_pads_its_steps_gives_the_same(
    folder: Path, reference: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "Limits", functools.partial(Limits, pad=True, token_buckets=(8, 24, 37)))
    with engine(folder, "cpu", plugins="none") as llm:
        assert llm.blueprint.limits.pad
        check_parity(llm, reference(folder), random_prompts((1, 17, 75), seed=6), num_tokens=5, label="padded")


def test_what_nobody_promises_is_not_claimed_of_modules(folder: Path) -> None:
    with pytest.raises(KernelError, match=r"modules.* does not promise .*determinism='batch'"):
        engine(folder, "cpu", determinism="batch")
