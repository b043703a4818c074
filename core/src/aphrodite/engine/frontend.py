"""From what a caller passes to requests, and back to text: all of it beside the engine, wherever that runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from aphrodite.engine.requests import Prepared, RequestMaker, spread, spread_priority
from aphrodite.engine.state import RequestState
from aphrodite.errors import UsageError
from aphrodite.text.chat import ChatTemplate
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.types.model_card import ModelCard

_MOST_TEMPLATES = 16  # compiled and kept; callers rarely bring more than one
_RESERVED = ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize")


class Frontend:
    """Checks, tokenises and detokenises for one model. Safe to call from several threads.

    tokenizer  None for a model without: prompts are then token ids, and there is no text
    """

    def __init__(self, card: ModelCard, tokenizer: Tokenizer | None) -> None:
        self.card = card
        self.tokenizer = tokenizer
        self._maker = RequestMaker(card, tokenizer)
        self._templates: dict[str | None, ChatTemplate | None] = {}

    @classmethod
    def of(cls, card: ModelCard) -> Frontend:
        """With the tokenizer of the model's folder. ModelError if it cannot be read."""
        return cls(card, Tokenizer.find(Path(card.folder)))

    def prepare(self, prompts: Any, sampling_params: Any, priority: Any = 0) -> list[Prepared]:
        """Requests for one prompt or several, as LLM.generate takes them. UsageError names the first that is wrong."""
        return self._maker.make_all(prompts, sampling_params, priority)

    def prepare_one(self, prompt: Any, sampling_params: Any, priority: Any = 0) -> Prepared:
        """A request for one prompt. UsageError if it is wrong."""
        return self._maker.make(prompt, spread(sampling_params, 1)[0], spread_priority(priority, 1)[0], "prompt")

    def prepare_chat(
        self,
        messages: Any,
        sampling_params: Any,
        priority: Any = 0,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tools: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        cache_salt: str | None = None,
    ) -> list[Prepared]:
        """Requests for one conversation or several, as LLM.chat takes them. UsageError names what is wrong."""
        chats = _conversations(messages)
        params, priorities = spread(sampling_params, len(chats)), spread_priority(priority, len(chats))
        template, tokenizer = self._template(chat_template)
        how = _how(add_generation_prompt, continue_final_message, tools, chat_template_kwargs)
        found = []
        for place, chat in enumerate(chats):
            where = "messages" if len(chats) == 1 else f"messages[{place}]"
            text = template.render(chat, **how)
            self._maker.check_length(text, where)
            prompt = {"prompt_token_ids": template.encode(chat, tokenizer, **how), "cache_salt": cache_salt}
            found.append(self._maker.make(prompt, params[place], priorities[place], where, text))
        return found

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tools: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens of one conversation, as `prepare_chat` has them, however many. UsageError names what is wrong."""
        template, tokenizer = self._template(chat_template)
        how = _how(add_generation_prompt, continue_final_message, tools, chat_template_kwargs)
        return list(template.encode(messages, tokenizer, **how))

    def state(self, prepared: Prepared, name: str | None = None, *, kept: Collection[str] = ()) -> RequestState:
        """What reads a request's results; `name` is what its output calls it, `kept` are special tokens that its text
        shows all the same."""
        return RequestState(prepared, self.tokenizer, name, kept)

    def chat_template(self, override: str | None = None) -> ChatTemplate | None:
        """The model's own chat template, or what `override` says (ChatTemplate.find); None if there is none."""
        if override not in self._templates:
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.clear()
            self._templates[override] = ChatTemplate.find(Path(self.card.folder), override)
        return self._templates[override]

    def _template(self, override: str | None) -> tuple[ChatTemplate, Tokenizer]:
        """The chat template to use, and the tokenizer. UsageError if one is missing."""
        if self.tokenizer is None:
            raise UsageError(
                f"chat needs a tokenizer, and {self.card.folder} has no tokenizer.json: pass token ids to generate",
                subject="messages",
            )
        template = self.chat_template(override)
        if template is None:
            raise UsageError(
                f"{self.card.folder} has no chat template: pass one as chat_template, a text or a file's path, or use "
                "generate",
                subject="chat_template",
            )
        return template, self.tokenizer


def _how(add: bool | None, continues: bool, tools: Any, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """How a template is to write a chat."""
    return {
        "add_generation_prompt": add,
        "continue_final_message": continues,
        "tools": tools,
        **_checked_kwargs(kwargs),
    }


def _checked_kwargs(kwargs: Any) -> dict[str, Any]:
    """What a template reads beside messages. UsageError for what has an argument of its own."""
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise UsageError(
            f"chat_template_kwargs must be a mapping with texts as keys, got {kwargs!r}", subject="chat_template_kwargs"
        )
    for name in kwargs:
        if name in _RESERVED:
            raise UsageError(
                f"chat_template_kwargs must not have {name!r}, which is set otherwise", subject="chat_template_kwargs"
            )
    return dict(kwargs)


def _conversations(messages: Any) -> list[Any]:
    """One conversation or several, as several."""
    several = _is_list(messages) and len(messages) > 0 and all(map(_is_list, messages))
    return list(messages) if several else [messages]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
