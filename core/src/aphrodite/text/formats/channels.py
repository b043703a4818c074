"""Output as messages in channels."""

from __future__ import annotations

from collections.abc import Callable

from aphrodite.text.formats import json_text
from aphrodite.text.formats.call import Call
from aphrodite.text.formats.describe import Channels
from aphrodite.text.formats.events import Content, Reasoning, Recorder
from aphrodite.text.formats.source import Malformed, Source, Wait
from aphrodite.text.stops import StopFinder

_TO = "to="
_MAX_HEADER = 512  # characters; a longer one is text
_BETWEEN = "\n\n"  # messages of one kind that follow each other become one text


class ChannelReader:
    """Reads one output. The prompt has begun the first header, or even its message.

    calls  whether what is sent to a recipient is a call; else it is content, as it stands
    """

    def __init__(
        self,
        format: Channels,
        source: Source,
        events: Recorder,
        new_id: Callable[[], str],
        prompt: str,
        calls: bool,
    ) -> None:
        self._format, self._source, self._events, self._new_id, self._calls = format, source, events, new_id, calls
        self._begun = prompt[prompt.rfind(format.start) :] if format.start in prompt else format.start
        self._ends = StopFinder((*format.ends, format.start, format.channel))
        self._num_calls = 0
        self._said: set[type[Content] | type[Reasoning]] = set()

    def run(self) -> Wait[None]:
        """Reads everything."""
        form = self._format
        if form.message in self._begun:  # the prompt holds the beginning of the message
            marker = yield from self._body(self._begun)
        else:
            marker = yield from self._first()
        while marker is not None:
            if marker in form.ends:
                space = yield from self._source.spaces()
                marker = yield from self._source.one_of((form.start, form.channel, *form.ends))
                if marker is None and (yield from self._source.peek()):  # text outside of messages
                    marker = yield from self._text(Content, space)
            else:
                marker = yield from self._message(marker)

    def _first(self) -> Wait[str | None]:
        """The message whose header the prompt has begun; text, if it does not go on as a header."""
        form = self._format
        space = yield from self._source.spaces()
        begun = yield from self._source.one_of((form.channel, form.message, form.constrain, form.start, _TO))
        if begun is None:
            return (yield from self._text(Content, space))
        if begun == form.message:
            return (yield from self._body(self._begun))
        return (yield from self._message(begun, before=self._begun))

    def _message(self, begun: str, before: str = "") -> Wait[str | None]:
        """Reads a header that begins so, and its message. The marker that ends it; None at the end of the text.

        A header that does not come to its end, or is too long, is text.
        """
        header = begun
        while len(header) < _MAX_HEADER:
            marker = yield from self._source.one_of((self._format.message, self._format.start, *self._format.ends))
            if marker == self._format.message:
                return (yield from self._body(f"{before} {header}"))
            if marker is not None:
                self._say(Content, header)
                return marker
            if not (yield from self._source.peek()):
                break
            header += self._source.take_one()
        return (yield from self._text(Content, header))

    def _body(self, header: str) -> Wait[str | None]:
        """Reads a message behind its header. The marker that ends it; None at the end of the text."""
        channel, recipient = self._parts(header)
        if recipient and self._calls:
            return (yield from self._call(recipient))
        return (yield from self._text(Reasoning if channel in self._format.reasoning else Content))

    def _parts(self, header: str) -> tuple[str, str]:
        """The channel and the recipient, either may be "". Markers stand between words without a space."""
        form = self._format
        before, _, behind = header.replace(form.constrain, " ").partition(form.channel)
        names = behind.partition(form.message)[0].split()
        words = [*before.replace(form.start, " ").split(), *names]
        recipients = [word.removeprefix(_TO) for word in words if word.startswith(_TO)]
        return names[0] if names else "", recipients[0].removeprefix(form.prefix) if recipients else ""

    def _text(self, kind: type[Content] | type[Reasoning], begun: str = "") -> Wait[str | None]:
        between = kind in self._said  # some of this kind in an earlier message

        def sink(text: str) -> None:
            nonlocal between
            if text and between:
                self._events.text(kind, _BETWEEN)
                between = False
            self._say(kind, text)

        sink(begun)
        return (yield from self._source.until(self._ends.again(), sink))

    def _say(self, kind: type[Content] | type[Reasoning], text: str) -> None:
        if text:
            self._said.add(kind)
            self._events.text(kind, text)

    def _call(self, name: str) -> Wait[str | None]:
        """A message to a recipient: arguments as they stand, whole if they are one JSON value."""
        call = Call(self._num_calls, self._source, self._events, self._new_id)
        self._num_calls += 1
        call.named(name)
        call.start()
        yield from self._source.spaces()
        marker = yield from self._source.one_of(self._format.ends)
        if marker is not None:
            call.arguments("{}")
            call.complete = True
            call.end()
            return marker
        try:
            yield from json_text.value(self._source, call.arguments)
            yield from self._source.spaces()
            call.complete = True
        except Malformed:
            pass

        def sink(text: str) -> None:
            if text:
                call.complete = False
                call.arguments(text)

        marker = yield from self._source.until(self._ends.again(), sink)
        call.end()
        return marker
