"""`aphrodite chat`: a conversation in the terminal, or of the lines of a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aphrodite.cli.command import Call
from aphrodite.cli.lines import Lines, open_lines
from aphrodite.cli.output import document, print_document, print_error, print_note, safe_for_terminal
from aphrodite.errors import AphroditeError
from aphrodite.progress import progress
from aphrodite.types.sampling_params import SamplingParams

if TYPE_CHECKING:
    from aphrodite.engine.llm import LLM

_HELP = '''\
/help    this list
/clear   forget the conversation
/retry   answer the last message again
/exit    leave, as Ctrl-D does
"""      opens and ends a message of several lines; Ctrl-C stops an answer
a space before / makes it an ordinary message'''


def run(call: Call) -> int:
    """Read messages and print answers until the input ends."""
    from aphrodite.engine.llm import LLM

    with LLM(progress=progress(call.quiet), **call.settings) as llm:
        conversation = Conversation(llm, call.sampling(), call.options.system, call.options.chat_template)
        if not call.quiet:
            print_note(llm.blueprint.summary)
        talk = _Talk(conversation, open_lines(), is_quiet=call.quiet, is_document=call.common.json)
        code = talk.run()
    if call.common.json:
        content = {"model": call.model, "messages": conversation.messages, "answers": talk.answers}
        print_document(document(call.command, content))
    return code


@dataclass
class Conversation:
    """The messages so far, and how the next one is answered."""

    llm: LLM
    sampling: SamplingParams
    system: str | None = None
    chat_template: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all but the system message."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def take_back(self) -> str | None:
        """Forget the last message and its answer; returns the message, None if there is none."""
        while self.messages and self.messages[-1]["role"] != "system":
            message = self.messages.pop()
            if message["role"] == "user":
                return message["content"]
        return None

    def answer(self, message: str) -> Generator[Any, None, None]:
        """The answer as it grows, a RequestOutput each time. What has come by the time that the iterator is closed is
        kept in the conversation. If nothing could be generated, the message is not."""
        self.messages.append({"role": "user", "content": message})
        text = None
        try:
            stream: Any = self.llm.stream_chat(self.messages, self.sampling, chat_template=self.chat_template)
            with closing(stream):
                for output in stream:
                    text = output.outputs[0].text
                    yield output
        finally:
            if text is None:
                self.messages.pop()
            else:
                self.messages.append({"role": "assistant", "content": text})


class _Talk:
    """Reads, answers, obeys."""

    def __init__(self, conversation: Conversation, lines: Lines, *, is_quiet: bool, is_document: bool) -> None:
        self._conversation = conversation
        self._lines = lines
        self._is_quiet = is_quiet
        self._is_document = is_document
        self.answers: list[dict[str, Any]] = []

    def run(self) -> int:
        if self._lines.is_terminal and not self._is_quiet:
            print("/help lists commands, Ctrl-D leaves", file=sys.stderr)
        while True:
            try:
                message = self._lines.message()
                if message is None or message == "/exit":
                    return 0
                self._obey(message)
            except KeyboardInterrupt:
                if not self._lines.is_terminal:
                    raise
                print("", file=sys.stderr)  # the line is dropped, the conversation goes on
            except AphroditeError as error:
                if not self._lines.is_terminal:
                    raise
                print_error(str(error))

    def _obey(self, message: str) -> None:
        if message == "/help":
            print(_HELP, file=sys.stderr)
        elif message == "/clear":
            self._conversation.clear()
        elif message == "/retry":
            last = self._conversation.take_back()
            if last is None:
                print("there is no message to answer again", file=sys.stderr)
            else:
                self._answer(last)
        elif message.startswith("/"):
            print(f"there is no command {message.split()[0]!r}; /help lists them", file=sys.stderr)
        elif message.strip():
            self._answer(message.removeprefix(" ") if message.startswith(" /") else message)

    def _answer(self, message: str) -> None:
        start, first, shown, output = time.monotonic(), None, "", None
        is_stopped = False
        with closing(self._conversation.answer(message)) as outputs:
            try:
                for output in outputs:
                    first = time.monotonic() if first is None else first
                    text = output.outputs[0].text
                    self._print(text[len(shown) :])
                    shown = text
            except KeyboardInterrupt:
                if not self._lines.is_terminal:
                    raise
                is_stopped = True
        end = time.monotonic()
        self._print("\n")
        if output is not None and first is not None:
            self._report(output, first - start, end - first, is_stopped)
        elif is_stopped and not self._is_quiet:
            print("[stopped before the first token; the message is forgotten]", file=sys.stderr)

    def _print(self, text: str) -> None:
        if not self._is_document:
            sys.stdout.write(safe_for_terminal(text))
            sys.stdout.flush()

    def _report(self, output: Any, first_s: float, rest_s: float, is_stopped: bool) -> None:
        """The line of figures. A rate needs two tokens: the time of the first is the prompt's."""
        completion = output.outputs[0]
        count = len(completion.token_ids)
        rate = (count - 1) / rest_s if count > 1 and rest_s > 0 else None
        reason = "stopped" if is_stopped else completion.finish_reason
        self.answers.append(
            {
                "num_prompt_tokens": len(output.prompt_token_ids),
                "num_tokens": count,
                "first_token_s": first_s,
                "tokens_per_s": rate,
                "finish_reason": reason,
            }
        )
        if reason == "error":
            print_error("the logits were not numbers; the answer ends here")
        if not self._is_quiet:
            parts = [f"{count} token{'' if count == 1 else 's'}"]
            parts += [f"{rate:.1f} tokens/s"] if rate is not None else []
            parts += [f"first after {first_s:.2f} s"]
            parts += {"stopped": ["stopped"], "length": ["cut at the length limit"]}.get(str(reason), [])
            print(f"[{', '.join(parts)}]", file=sys.stderr)
