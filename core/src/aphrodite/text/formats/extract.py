"""The machine that reads a model's output by its description, from text in parts to events."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Collection

from aphrodite.text.formats.channels import ChannelReader
from aphrodite.text.formats.describe import OutputFormat
from aphrodite.text.formats.events import Event, Recorder
from aphrodite.text.formats.source import Source, Wait
from aphrodite.text.formats.tags import TagReader

_LETTERS = string.ascii_letters + string.digits
_ID_LENGTH = 24


class Extractor:
    """Finds reasoning and tool calls in one output. The events do not depend on where its parts are cut.

    format   how the model writes
    prompt   the prompt's text: where it has begun to write the answer (an opened thought, a header), that counts
    begun    of that, the part that is the answer already: the content that a continued message has
    tools    names of the request's tools; None if it may call none, and what looks like a call is text then
    new_id   makes the ids of calls; by default random ones of the kind that the format asks for

    Time is linear in the text. What is not of the form that it begins to have is text: nothing is lost but markers and
    white space around them. A call is told of as soon as it is sure to be one, and its arguments as they come.
    """

    def __init__(
        self,
        format: OutputFormat,
        *,
        prompt: str = "",
        begun: str = "",
        tools: Collection[str] | None = None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._source = Source()
        self._events = Recorder()
        new_id = new_id or id_maker(format)
        if format.channels is not None:
            reader = ChannelReader(format.channels, self._source, self._events, new_id, prompt, tools is not None)
            self._run: Wait[None] = reader.run()
        else:
            calls = format.tools.forms if format.tools is not None and tools is not None else ()
            tags = TagReader(format.thoughts, calls, frozenset(tools or ()), self._source, self._events, new_id)
            self._run = tags.run(tags.opened(prompt, begun))
        self._advance()

    def feed(self, text: str) -> list[Event]:
        """What this text settles."""
        if not text:
            return []
        self._source.put(text)
        self._advance()
        return self._events.take()

    def finish(self) -> list[Event]:
        """What was held back: no more text comes."""
        self._source.close()
        self._advance()
        return self._events.take()

    def _advance(self) -> None:
        next(self._run, None)


def id_maker(format: OutputFormat) -> Callable[[], str]:
    """Makes random ids for calls, of the kind that a format's chat template takes back."""
    length = format.tools.id_length if format.tools is not None else 0

    def new_id() -> str:
        letters = "".join(secrets.choice(_LETTERS) for _ in range(length or _ID_LENGTH))
        return letters if length else f"call_{letters}"

    return new_id
