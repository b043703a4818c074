"""Chat templates: from messages to the text, and the tokens, that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError, UndefinedError

from aphrodite.errors import ModelError, UsageError
from aphrodite.text.marks import Marks, carried_over, changed, private_characters
from aphrodite.text.messages import checked_messages, joined, plain, with_arguments_as_text
from aphrodite.text.sandbox.budget import BudgetError
from aphrodite.text.sandbox.environment import ChatEnvironment
from aphrodite.text.tokenizer import Tokenizer
from aphrodite.text.tokenizer_config import DEFAULT_TEMPLATE, TokenizerConfig, read_template

_TOOLS_TEMPLATE = "tool_use"
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "  # its space shows whether the template trims what it writes


class ChatTemplate:
    """A checkpoint's chat template, or its several by name. Safe to call from several threads.

    Renders as Transformers' `apply_chat_template` does, with two differences: work is bounded (see `sandbox`), and a
    control token that a message spells is text (see `marks`).
    """

    def __init__(self, templates: Mapping[str, str], named: Mapping[str, str]) -> None:
        """templates by name, one alone is "default"; `named` is special tokens by name. ModelError if one is wrong."""
        self._named = dict(named)
        self._environment = ChatEnvironment()
        self._templates = {name: _Template(self._environment, name, source) for name, source in templates.items()}

    @classmethod
    def find(cls, folder: Path, override: str | None = None) -> ChatTemplate | None:
        """The folder's, None if it has none.

        override  in its place: the name of one of the folder's, a template's text, or the path of a file
        UsageError if override is none of these, ModelError if a file or template is wrong.
        """
        config = TokenizerConfig.read(folder)
        templates = config.templates
        if override is not None:
            templates = {DEFAULT_TEMPLATE: _overriding(override, templates)}
        return cls(templates, config.names) if templates else None

    @property
    def sources(self) -> Mapping[str, str]:
        """The templates' texts by name."""
        return {name: template.source for name, template in self._templates.items()}

    def render(
        self,
        messages: Any,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tools: Any = None,
        **kwargs: Any,
    ) -> str:
        """The text of messages, ready for `Tokenizer.encode_bare`: it brings its own BOS.

        add_generation_prompt   open the answer; by default so unless continue_final_message
        continue_final_message  end where the last message's content does, for the model to go on
        tools                   JSON schemas
        kwargs                  what else the template reads (enable_thinking ...)
        UsageError names a wrong message as messages[i], and tells what the template objects to.
        """
        return self._render(*self._chat(messages, add_generation_prompt, continue_final_message, tools, kwargs))

    def encode(
        self,
        messages: Any,
        tokenizer: Tokenizer,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tools: Any = None,
        **kwargs: Any,
    ) -> list[int]:
        """The tokens of messages; arguments as for `render`. Only the template writes control tokens: a spelling of one
        that comes from a message, a tool or kwargs, whole or in part, is encoded as text.

        Control tokens are the special tokens, and those other added tokens that stand in the template.
        """
        template, chat, cut = self._chat(messages, add_generation_prompt, continue_final_message, tools, kwargs)
        text = self._render(template, chat, cut)
        control = tokenizer.control_tokens(template.text)
        marks = template.marks(control, private_characters(_texts(chat)))
        flags = bytearray(len(text))
        for mark in (marks.fine, marks.whole):
            marked = changed(chat, mark)
            if marked == chat:
                break
            read, their_flags = marks.read(self._render_marked(template, marked, cut) or "")
            over = carried_over(read, their_flags, text)
            if over is not None:
                flags = over
                break
        else:  # the marks change what the template does: then safe goes before the same
            text, flags = read, their_flags
            if not text:
                raise UsageError(
                    "messages spell a control token, at which this chat template fails", subject="messages"
                )
        found = marks.users(text, flags)
        if not any(is_text for _, _, is_text in found):
            return tokenizer.encode_bare(text)
        return tokenizer.encode_guarded(text, found, control)

    def _chat(
        self, messages: Any, add_generation_prompt: bool | None, cut: bool, tools: Any, kwargs: Mapping[str, Any]
    ) -> tuple[_Template, dict[str, Any], bool]:
        """The template to take, all that it is given by the caller, and whether to cut behind the last message."""
        if cut and add_generation_prompt:
            raise UsageError(
                "continue_final_message goes on with the last message and add_generation_prompt opens another: set one",
                subject="continue_final_message",
            )
        template = self._named_template(tools)
        chat = {
            "messages": checked_messages(messages),
            "tools": plain(tools, "tools"),
            "documents": None,
            "add_generation_prompt": not cut if add_generation_prompt is None else add_generation_prompt,
            **{name: plain(value, name) for name, value in kwargs.items()},
        }
        if any(isinstance(message.get("content"), list) for message in chat["messages"]) and not self._reads_parts(
            template
        ):
            chat["messages"] = [joined(message) for message in chat["messages"]]
        if any(message.get("tool_calls") for message in chat["messages"]) and self._wants_arguments_as_text(template):
            chat["messages"] = [with_arguments_as_text(message) for message in chat["messages"]]
        return template, chat, cut

    def _named_template(self, tools: Any) -> _Template:
        for name in (_TOOLS_TEMPLATE, DEFAULT_TEMPLATE) if tools is not None else (DEFAULT_TEMPLATE,):
            if name in self._templates:
                return self._templates[name]
        names = ", ".join(sorted(self._templates))
        raise UsageError(
            f"there are several chat templates and no default: choose one of {names}", subject="chat_template"
        )

    def _reads_parts(self, template: _Template) -> bool:
        """Whether a template can read content that is a list of parts; tried once."""
        if template.reads_parts is None:
            probe = {"messages": [{"role": "user", "content": [{"type": "text", "text": "PROBE"}]}], "tools": None}
            try:
                text = self._run(template, {**probe, "documents": None, "add_generation_prompt": True})
                template.reads_parts = "PROBE" in text and "'PROBE'" not in text
            except Exception:  # whatever it raises, it cannot
                template.reads_parts = False
        return template.reads_parts

    def _wants_arguments_as_text(self, template: _Template) -> bool:
        """Whether a template adds a call's arguments to its text as they are, and so wants JSON and no mapping; tried
        once. Most write a mapping as JSON."""
        if template.wants_text is None:
            as_mapping, as_text = (self._probe_call(template, form) for form in ({"PROBE": ""}, '{"PROBE": ""}'))
            template.wants_text = '"PROBE"' not in as_mapping and '{"PROBE"' in as_text
        return template.wants_text

    def _probe_call(self, template: _Template, arguments: Any) -> str:
        """What a template makes of a call with these arguments; "" if it cannot."""
        call = {"id": "a1B2c3D4e", "type": "function", "function": {"name": "probe", "arguments": arguments}}
        messages = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "b", "tool_call_id": "a1B2c3D4e", "name": "probe"},
        ]
        try:
            return self._run(
                template, {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
            )
        except Exception:  # whatever it raises, it cannot
            return ""

    def _render(self, template: _Template, chat: Mapping[str, Any], cut: bool) -> str:
        final = _final_text(chat["messages"]) if cut else ""
        try:
            text = self._run(template, _tagged(chat) if cut else chat)
        except BudgetError as error:
            raise UsageError(f"the chat template is stopped: {error}", subject="messages") from None
        except (TemplateRuntimeError, SecurityError, UndefinedError) as error:
            raise UsageError(f"the chat template fails on these messages: {error}", subject="messages") from None
        except TemplateError as error:  # its own raise_exception
            raise UsageError(f"the chat template refuses these messages: {error}", subject="messages") from None
        except Exception as error:  # what Python raises inside it: TypeError, OverflowError ...
            what = f"{type(error).__name__}: {error}"
            raise UsageError(f"the chat template fails on these messages: {what}", subject="messages") from None
        return _before_tag(text, final) if cut else text

    def _render_marked(self, template: _Template, chat: Mapping[str, Any], cut: bool) -> str | None:
        try:
            return self._render(template, chat, cut)
        except UsageError:
            return None

    def _run(self, template: _Template, chat: Mapping[str, Any]) -> str:
        return self._environment.render(template.compiled, {**self._named, **chat})


class _Template:
    """One template, and what encoding needs to know of it."""

    def __init__(self, environment: ChatEnvironment, name: str, source: str) -> None:
        self.source = source
        self.reads_parts: bool | None = None
        self.wants_text: bool | None = None
        self._marks: dict[tuple[str, ...], Marks] = {}
        try:
            self.compiled = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ModelError(
                f"the chat template {name!r} is wrong in line {error.lineno}: {error.message}", subject="chat_template"
            ) from None
        except (TemplateError, RecursionError, SyntaxError) as error:
            raise ModelError(f"the chat template {name!r} cannot be read: {error}", subject="chat_template") from None
        tree = environment.parse_only(source)
        constants = [node.value for node in tree.find_all(nodes.Const)]
        self._compared = [value for value in constants if isinstance(value, str)]
        # All that it may write of its own, with a character between that no token has.
        self.text = "\0".join([*self._compared, *(node.data for node in tree.find_all(nodes.TemplateData))])

    def marks(self, control: tuple[str, ...], taken: set[str]) -> Marks:
        """Marks for a chat that has these private characters; the last ones again if they will do."""
        marks = self._marks.get(control)
        if marks is None or not marks.private.isdisjoint(taken):
            marks = Marks(control, self._compared, taken | private_characters([self.source]))
            self._marks = {control: marks}
        return marks


def _overriding(override: str, templates: Mapping[str, str]) -> str:
    if override in templates:
        return templates[override]
    if "{{" in override or "{%" in override:
        return override
    path = Path(override)
    if path.is_file():
        return read_template(path)
    names = ", ".join(sorted(templates)) or "none"
    raise UsageError(
        f"chat_template must be a template's text, the path of a file, or a name ({names}), got {override!r}",
        subject="chat_template",
    )


def _texts(value: Any) -> list[str]:
    """All texts in plain data."""
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *_texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


# ---- continue_final_message, as Transformers does it ----------------------------------------------------------------


def _final_text(messages: list[dict[str, Any]]) -> str:
    content = messages[-1].get("content")
    text = content[-1]["text"] if isinstance(content, list) and content else content
    if not isinstance(text, str):
        raise UsageError(
            f"continue_final_message needs a text in the last message, got {content!r}",
            subject="continue_final_message",
        )
    return text


def _tagged(chat: Mapping[str, Any]) -> dict[str, Any]:
    """The chat with a tag at the end of its last text."""
    *before, last = chat["messages"]
    content = last["content"]
    if isinstance(content, list):
        content = [*content[:-1], {**content[-1], "text": content[-1]["text"] + _TAG}]
    else:
        content += _TAG
    return {**chat, "messages": [*before, {**last, "content": content}]}


def _before_tag(text: str, final: str) -> str:
    if final.strip() not in text or _TAG.strip() not in text:
        raise UsageError(
            "continue_final_message: the chat template does not write the last message as it is", subject="messages"
        )
    at = text.rindex(_TAG.strip())
    return text[:at] if text[at : at + len(_TAG)] == _TAG else text[:at].rstrip()
