"""Descriptions of what models write: data, read by the extractors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Thoughts:
    """Reasoning between two markers, where the answer begins or behind a tool call.

    pairs    (start, end), each start with its own end
    wrapper  markers around the answer that follows, left out
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    wrapper: tuple[str, str] | None = None


@dataclass(frozen=True)
class Keys:
    """Where things stand in a call that is one JSON object.

    wrapper  a key under which the call itself may stand, or its name
    ignored  keys that a call may have and that mean nothing; in a strict block any other is no call
    """

    name: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    call_id: str = "id"
    wrapper: str = "function"
    ignored: tuple[str, ...] = ("type",)


@dataclass(frozen=True)
class Heads:
    """Where things stand in a call whose name comes before its arguments, which begin with a brace.

        [TOOL_CALLS] name [CALL_ID] id [ARGS] {...}

    separators  marker -> what stands behind it: "name", "id", or "" for neither
    first       what stands before all of them
    prefix      cut off a name's front
    counter     whether a name ends in a colon and a number, and is then the call's id
    """

    separators: Mapping[str, str]
    first: str = "name"
    prefix: str = ""
    counter: bool = False


@dataclass(frozen=True)
class Calls:
    """One way to write tool calls: a block that holds one or more.

        open (each) call [close] ... (each) call [close] ... end

    opens    markers of which one opens a block; () if a call stands alone where the answer begins
    each     markers before each call of a block; () if there are none
    closes   markers behind a call, any number of them, left out
    ends     markers that end a block
    between  separators of calls; in a JSON list the comma is one
    heads    how a call is written that is no JSON object; None if all are
    strict   whether a block is easily mistaken: it may stand only where the answer begins, has a tool's name that the
             request knows, and no other keys
    special  whether the markers are such that nobody writes them by chance, so that they end reasoning too
    """

    opens: tuple[str, ...]
    each: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    keys: Keys = Keys()
    heads: Heads | None = None
    strict: bool = False
    special: bool = False


@dataclass(frozen=True)
class Channels:
    """Output as messages with a header, each for a channel or for a tool.

        start role [to=recipient] channel name [to=recipient] [constrain type] message body end

    ends       markers that end a message
    reasoning  channels that are reasoning; what others say is the answer, what a recipient is sent is a call
    prefix     cut off a recipient's front
    """

    name: str
    start: str
    channel: str
    constrain: str
    message: str
    ends: tuple[str, ...]
    reasoning: tuple[str, ...]
    prefix: str


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes tool calls.

    forms      the ways they may stand, none of which opens as another does
    id_length  letters of a call's id, where the chat template insists on a number; 0 for no matter
    """

    name: str
    forms: tuple[Calls, ...]
    id_length: int = 0


@dataclass(frozen=True)
class OutputFormat:
    """What one model's output is read as: in channels, or as thoughts and tool calls, either of which may be None."""

    tools: ToolFormat | None = None
    thoughts: Thoughts | None = None
    channels: Channels | None = None

    def markers(self) -> frozenset[str]:
        """All markers. Those that are special tokens must be kept in the text; see `Detokenizer`."""
        found: set[str] = set()
        if self.channels is not None:
            one = self.channels
            found.update((one.start, one.channel, one.constrain, one.message, *one.ends))
        if self.thoughts is not None:
            found.update(marker for pair in (*self.thoughts.pairs, self.thoughts.wrapper or ()) for marker in pair)
        for form in self.tools.forms if self.tools is not None else ():
            found.update((*form.opens, *form.each, *form.closes, *form.ends, *form.between))
            found.update(form.heads.separators if form.heads is not None else ())
        return frozenset(found)

    def kept(self, special: Collection[str]) -> frozenset[str]:
        """Of a tokenizer's special tokens those that are markers."""
        return self.markers().intersection(special)
