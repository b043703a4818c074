"""Thoughts and tool calls between markers in running text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from aphrodite.text.formats.call import Call, read_headed, read_object
from aphrodite.text.formats.describe import Calls, Thoughts
from aphrodite.text.formats.events import Content, Reasoning, Recorder
from aphrodite.text.formats.source import Malformed, Source, Wait
from aphrodite.text.formats.spaces import Spaces
from aphrodite.text.stops import StopFinder

_ALONE = ""  # in place of a marker, before a call that has none


class TagReader:
    """Reads one output. White space around markers is left out, and within text it is kept."""

    def __init__(
        self,
        thoughts: Thoughts | None,
        calls: Sequence[Calls],
        known: Collection[str],
        source: Source,
        events: Recorder,
        new_id: Callable[[], str],
    ) -> None:
        """known  names of tools, for blocks that are strict."""
        self._source, self._events, self._new_id, self._known = source, events, new_id, known
        self._pairs = dict(thoughts.pairs) if thoughts is not None else {}
        self._wrapper = thoughts.wrapper if thoughts is not None else None
        self._open = {marker: form for form in calls if not form.strict for marker in form.opens}
        self._open_first = {marker: form for form in calls if form.strict for marker in form.opens or (_ALONE,)}
        special = [marker for marker, form in self._open.items() if form.special]
        self._thought_ends = {end: StopFinder((end, *special)) for end in self._pairs.values()}
        self._held = Spaces(events, Content, hold=bool(calls))
        self._num_calls = 0

    def opened(self, prompt: str, begun: str) -> str | None:
        """The marker that ends the thought in which the output begins; None if it begins in none."""
        for start, end in self._pairs.items():
            if prompt.rstrip().endswith(start) or begun.rfind(start) > begun.rfind(end):
                return end
        return None

    def run(self, end: str | None) -> Wait[None]:
        """Reads everything, beginning in the thought that `end` ends, if not None."""
        marker = (yield from self._thought(end)) if end is not None else None
        fresh = True  # a thought may begin here
        first = True  # a strict block too
        finder = StopFinder(tuple(self._open))
        while True:
            if marker is None and fresh:
                marker = yield from self._opening(first)
            if marker is None:
                marker = yield from self._source.until(finder.again(), self._held.say)
            if marker is None:
                self._held.finish()
                return
            if marker in self._pairs:
                marker, fresh = (yield from self._thought(self._pairs[marker])), True
                continue
            if self._wrapper is not None and marker in self._wrapper:
                fresh = marker == self._wrapper[0]
                finder = StopFinder((*self._open, self._wrapper[1]))
            else:
                fresh, first = (yield from self._block(marker)), False
            marker = None

    def _opening(self, first: bool) -> Wait[str | None]:
        """The marker that stands here, before any text; None if there is none, or only such as may stand anywhere."""
        self._held.say((yield from self._source.spaces()))
        markers = [*self._pairs, *(self._wrapper[:1] if self._wrapper else ())]
        if first:
            markers += [marker for marker in self._open_first if marker]
        marker = yield from self._source.one_of(markers)
        if marker in self._pairs:
            self._held.drop()
        if marker is None and first and _ALONE in self._open_first and (yield from self._source.peek()) in ("{", "["):
            return _ALONE
        return marker

    def _thought(self, end: str) -> Wait[str | None]:
        """Reads a thought to its end. A marker of a call that ends it too, None if it was its own or the text's end."""
        held = Spaces(self._events, Reasoning, hold=True)
        yield from self._source.spaces()
        marker = yield from self._source.until(self._thought_ends[end].again(), held.say)
        if marker is None:
            held.finish()
        if marker != end:
            return marker
        yield from self._source.spaces()
        return None

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _block(self, marker: str) -> Wait[bool]:
        """Reads a block of calls behind its marker. False if what comes last is none, and so is text."""
        form = self._open.get(marker) or self._open_first[marker]
        self._source.record(marker)
        try:
            yield from self._calls(form)
        except Malformed:
            self._held.say(self._source.recorded())
            return False
        return True

    def _calls(self, form: Calls) -> Wait[None]:
        if form.each:
            yield from self._source.spaces()
            if (yield from self._source.one_of(form.each)) is None:
                raise Malformed
        in_list = (yield from self._source.after_space()) == "["
        if in_list:
            self._source.take_one()
        yield from self._call(form)
        while True:
            space = yield from self._source.spaces()
            nexts = (*form.each, *form.between, *((",",) if in_list else ()))
            lasts = (*form.closes, *form.ends, *(("]",) if in_list else ()))
            found = yield from self._source.one_of((*nexts, *lasts))
            if found is None:
                self._held.say(space)
                return
            if found in nexts:
                self._source.record(space + found)
                yield from self._call(form)
            elif in_list and found == "]":
                in_list = False
            elif found in form.ends:
                return

    def _call(self, form: Calls) -> Wait[None]:
        fits = self._known.__contains__ if form.strict else None
        call = Call(self._num_calls, self._source, self._events, self._new_id, fits)
        try:
            if (yield from self._source.after_space()) == "{":
                yield from read_object(self._source, form.keys, call, strict=form.strict)
            elif form.heads is not None:
                yield from read_headed(self._source, form.heads, call)
            else:
                raise Malformed
        except Malformed:
            if not call.started:
                raise
        call.end()
        self._num_calls += 1
        self._held.drop()
