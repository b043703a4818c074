"""The two engines behind one face: ours and Transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tokenizers import Tokenizer

_BATCH = 64


@dataclass(frozen=True)
class Reply:
    """What was generated: without the end token, its text without and with special tokens, and whether it ended."""

    ids: tuple[int, ...]
    text: str
    raw: str
    stopped: bool


class Engine(Protocol):
    """What evaluation asks of an engine. Prompts are texts that bring their own begin token."""

    name: str

    def greedy(self, prompts: Sequence[str], max_tokens: int) -> list[Reply]: ...
    def sample(self, prompts: Sequence[str], max_tokens: int, *, temperature: float, seed: int) -> list[Reply]: ...
    def log_likelihood(self, texts: Sequence[str]) -> tuple[float, int]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_engine(name: str, folder: Path, *, exact: bool = False) -> Engine:
    """An engine with a model loaded in float32. exact: one prompt at a time where a batch may round otherwise."""
    return Ours(folder) if name == "aphrodite" else Theirs(folder, exact=exact)


class _Common:
    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ends = ("<|im_end|>", "<|endoftext|>")
        self.ends = frozenset(self.tokenizer.token_to_id(end) for end in ends)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def reply(self, ids: Sequence[int]) -> Reply:
        """Up to the first end token."""
        end = next((place for place, token in enumerate(ids) if token in self.ends), None)
        kept = tuple(ids[:end])
        raw = self.tokenizer.decode(list(kept), skip_special_tokens=False)
        return Reply(kept, self.tokenizer.decode(list(kept)), raw, end is not None)


class Ours(_Common):
    """Aphrodite."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from aphrodite import LLM, __version__

        self.name = f"aphrodite {__version__}"
        self._llm = LLM(str(folder), dtype="float32", max_num_seqs=_BATCH)

    def greedy(self, prompts: Sequence[str], max_tokens: int) -> list[Reply]:
        return self._generate(prompts, temperature=0.0, max_tokens=max_tokens, repetition_penalty=1.0)

    def sample(self, prompts: Sequence[str], max_tokens: int, *, temperature: float, seed: int) -> list[Reply]:
        return self._generate(prompts, temperature=temperature, top_p=0.95, seed=seed, max_tokens=max_tokens)

    def _generate(self, prompts: Sequence[str], **parameters: Any) -> list[Reply]:
        from aphrodite import SamplingParams

        asked = [{"prompt_token_ids": self.encode(prompt)} for prompt in prompts]
        seed = parameters.pop("seed", None)
        params = [
            SamplingParams(**parameters, **({} if seed is None else {"seed": seed + place}))
            for place in range(len(asked))
        ]
        return [
            self.reply(
                [*out.outputs[0].token_ids, *([min(self.ends)] if out.outputs[0].finish_reason == "stop" else [])]
            )
            for out in self._llm.generate(asked, params)
        ]

    def log_likelihood(self, texts: Sequence[str]) -> tuple[float, int]:
        from aphrodite import SamplingParams

        asked = [{"prompt_token_ids": self.encode(text)} for text in texts]
        outputs = self._llm.generate(asked, SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0))
        found = [
            position[token].logprob
            for output in outputs
            for token, position in zip(output.prompt_token_ids, output.prompt_logprobs or (), strict=True)
            if position is not None
        ]
        return sum(found), len(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llm.close()


class Theirs(_Common):
    """Transformers."""

    def __init__(self, folder: Path, *, exact: bool) -> None:
        super().__init__(folder)
        import torch
        from transformers import AutoModelForCausalLM
        from transformers import __version__ as version

        self.name = f"transformers {version}"
        self._batch = 1 if exact else _BATCH
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() and not exact else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model = model.to(self._device).eval()

    def greedy(self, prompts: Sequence[str], max_tokens: int) -> list[Reply]:
        return self._generate(prompts, max_tokens, do_sample=False, temperature=None, top_p=None)

    def sample(self, prompts: Sequence[str], max_tokens: int, *, temperature: float, seed: int) -> list[Reply]:
        self._torch.manual_seed(seed)
        return self._generate(prompts, max_tokens, do_sample=True, temperature=temperature, top_p=0.95)

    def _generate(self, prompts: Sequence[str], max_tokens: int, **settings: Any) -> list[Reply]:
        encoded = [self.encode(prompt) for prompt in prompts]
        order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), self._batch):
            places = order[start : start + self._batch]
            width = max(len(encoded[place]) for place in places)
            pad = self._model.config.pad_token_id
            ids = self._torch.tensor([[pad] * (width - len(encoded[p])) + encoded[p] for p in places])
            mask = self._torch.tensor([[0] * (width - len(encoded[p])) + [1] * len(encoded[p]) for p in places])
            with self._torch.no_grad():
                out = self._model.generate(
                    input_ids=ids.to(self._device),
                    attention_mask=mask.to(self._device),
                    max_new_tokens=max_tokens,
                    **settings,
                )
            for place, row in zip(places, out[:, width:].tolist(), strict=True):
                replies[place] = self.reply(row)
        return [replies[place] for place in range(len(encoded))]

    def log_likelihood(self, texts: Sequence[str]) -> tuple[float, int]:
        total, count = 0.0, 0
        for text in texts:
            ids = self._torch.tensor([self.encode(text)], device=self._device)
            with self._torch.no_grad():
                logits = self._model(input_ids=ids).logits[0, :-1].float()
            total += float(logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).sum())
            count += ids.shape[1] - 1
        return total, count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
