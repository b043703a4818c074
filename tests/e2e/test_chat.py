"""`aphrodite chat`: through pipes, and on a real terminal (a pty)."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aphrodite import LLM, SamplingParams
from aphrodite.cli.chat import Conversation
from tests.support.checkpoints import Checkpoints, write_json
from tests.support.cli import aphrodite, refused
from tests.support.waiting import until

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
GREEDY = ("--temperature", 0, "--max-tokens", 6)


def made(folder: Path, max_model_len: int) -> Path:
    found = Checkpoints(folder).llama(max_position_embeddings=max_model_len)
    write_json(found / "tokenizer_config.json", {"chat_template": TEMPLATE})
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("chat"), 4096)


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[LLM]:
    with LLM(str(model)) as llm:
        yield llm


def talked(llm: LLM, *messages: str, system: str | None = None) -> list[dict[str, str]]:
    """The conversation that these messages make, by `LLM.chat` on all of it each time."""
    chat = [{"role": "system", "content": system}] if system else []
    for message in messages:
        chat.append({"role": "user", "content": message})
        (output,) = llm.chat(chat, SamplingParams(temperature=0, max_tokens=6))
        chat.append({"role": "assistant", "content": output.outputs[0].text})
    return chat


def test_each_line_of_a_pipe_is_answered_knowing_those_before(model: Path, llm: LLM) -> None:
    run = aphrodite("chat", model, *GREEDY, "--system", "Be good.", stdin="Hello\n\nAnd then?")
    truth = [message["content"] for message in talked(llm, "Hello", "And then?", system="Be good.")]
    assert run.returncode == 0
    assert run.stdout == f"{truth[2]}\n{truth[4]}\n"  # the empty line is no message
    machine, *figures = run.stderr.splitlines()
    assert machine.startswith("cpu: ")
    assert len(figures) == 2 and all("tokens/s" in line and "first after" in line for line in figures)
    assert aphrodite("chat", model, *GREEDY, "--quiet", stdin="Hello\n").stderr == ""


def test_json_is_one_document_with_the_whole_conversation(model: Path, llm: LLM) -> None:
    run = aphrodite("chat", model, *GREEDY, "--json", "--quiet", stdin="Hello\nAgain\n")
    document = json.loads(run.stdout)
    assert document["schema"] == "aphrodite.chat/1"
    assert document["messages"] == talked(llm, "Hello", "Again")
    assert [answer["num_tokens"] for answer in document["answers"]] == [6, 6]
    assert [answer["finish_reason"] for answer in document["answers"]] == ["length", "length"]


def test_commands_clear_retry_help_and_exit(model: Path, llm: LLM) -> None:
    def messages(stdin: str) -> list[dict[str, str]]:
        run = aphrodite("chat", model, *GREEDY, "--json", "--quiet", stdin=stdin)
        found: list[dict[str, str]] = json.loads(run.stdout)["messages"]
        return found

    assert messages("Hello\n/clear\nAgain\n") == talked(llm, "Again")
    assert messages("Hello\nAgain\n/retry\n") == talked(llm, "Hello", "Again")
    assert messages("/retry\n/help\n/nosuch\n") == []
    assert messages("Hello\n/exit\nAgain\n") == talked(llm, "Hello")
    assert messages(" /etc/hosts is a file\n") == talked(llm, "/etc/hosts is a file")
    said = aphrodite("chat", model, stdin="/help\n/nosuch\n").stderr
    assert "/retry" in said and "'/nosuch'" in said


def test_a_block_is_one_message_of_several_lines(model: Path, llm: LLM) -> None:
    run = aphrodite(
        "chat", model, *GREEDY, "--json", "--quiet", stdin='"""\nOne\n\n  two\n"""\n"""Three"""\n"""open\nend'
    )
    contents = [m["content"] for m in json.loads(run.stdout)["messages"] if m["role"] == "user"]
    assert contents == ["One\n\n  two", "Three", "open\nend"]


def test_what_a_pipe_asks_and_cannot_be_answered_fails_the_command(model: Path, tmp_path: Path) -> None:
    refused(aphrodite("chat", model, "--max-model-len", 32, "--quiet", stdin="word " * 100), 2, "max_model_len 32")
    bare = Checkpoints(tmp_path).llama()
    refused(aphrodite("chat", bare, "--quiet", stdin="Hello\n"), 2, "chat template")
    template = ("--chat-template", TEMPLATE)
    assert aphrodite("chat", bare, *GREEDY, *template, "--quiet", stdin="Hello\n").returncode == 0


def test_a_conversation_keeps_what_came_of_a_stopped_answer_and_nothing_of_a_refused_message(llm: LLM) -> None:
    conversation = Conversation(llm, SamplingParams(temperature=0, max_tokens=500, ignore_eos=True))
    answer = conversation.answer("Hello")
    for output in answer:
        if len(output.outputs[0].token_ids) >= 3:
            break
    answer.close()
    kept = conversation.messages[-1]
    assert kept == {"role": "assistant", "content": output.outputs[0].text}
    truth = talked(llm, "Hello")[-1]["content"]
    assert truth.startswith(kept["content"]) or kept["content"].startswith(truth)
    before = list(conversation.messages)
    with pytest.raises(ValueError, match="max_model_len"):
        list(conversation.answer("word " * 5000))
    assert conversation.messages == before
    assert conversation.take_back() == "Hello" and conversation.messages == []
    assert conversation.take_back() is None


class Terminal:
    """The command on a pty."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-m", "aphrodite.cli.main", *map(str, words)]
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, command, {**os.environ, "TERM": "dumb", "COLUMNS": "80"})
        self._seen = ""

    def expect(self, text: str, timeout_s: float = 60) -> str:
        """Wait for a text; gives all that came up to it."""
        deadline = time.monotonic() + timeout_s
        while text not in self._seen:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {text!r} within {timeout_s} s, but {self._seen!r}"
            self._seen += os.read(self._master, 1 << 16).decode(errors="replace")
        before, _, self._seen = self._seen.partition(text)
        return before

    def some(self) -> None:
        """Wait for anything more."""
        before = len(self._seen)
        while len(self._seen) == before:
            self._seen += os.read(self._master, 1 << 16).decode(errors="replace")

    def prompt(self) -> str:
        """Wait for the prompt, and until somebody listens for Ctrl-C."""
        before = self.expect("> ")
        self.rest()
        return before

    def rest(self) -> None:
        """Wait until its main thread has slept for a while: it waits for a key then, and nothing else. A signal that
        came before would wait for the key, too."""
        slept: list[str] = []

        def has_slept() -> bool:
            status = Path(f"/proc/{self.pid}/task/{self.pid}/status").read_text()
            state = re.findall(r"State:\t(\w)|voluntary_ctxt_switches:\t(\d+)", status)
            slept.append(str(state) if state[0][0] == "S" else f"awake {len(slept)}")
            return len(slept) > 5 and len(set(slept[-5:])) == 1

        until(has_slept, 60)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read to the end; gives the exit code."""
        try:
            while os.read(self._master, 1 << 16):
                pass
        except OSError:  # Linux says that the other side is closed
            pass
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    long = made(tmp_path, 32768)
    terminal = Terminal("chat", long, "--ignore-eos", "--seed", 3, "--temperature", 0)
    assert "/help" in terminal.prompt()
    terminal.type("Hello\n")
    terminal.expect("Hello\r\n")
    terminal.some()  # of 30,000 tokens: the program waits for who reads them
    terminal.type("\x03")
    assert "tokens/s" in terminal.expect(", stopped]")
    terminal.prompt()
    terminal.type("half a line\x03")  # dropped
    terminal.prompt()
    terminal.type("/retry\n")
    terminal.expect("/retry\r\n")
    terminal.some()
    terminal.type("\x03")
    terminal.expect(", stopped]")
    terminal.prompt()
    terminal.type('"""two\n')
    terminal.expect("... ")
    terminal.type("x")
    terminal.expect("x")
    terminal.rest()
    terminal.type("\x03")  # leaves the block
    terminal.prompt()
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_terminal_gets_no_control_characters_of_the_model_and_errors_leave_it_open(model: Path) -> None:
    terminal = Terminal("chat", model, "--quiet", "--max-tokens", 200, "--max-model-len", 300, "--ignore-eos")
    terminal.prompt()
    terminal.type("word " * 400 + "\n")
    terminal.expect("error: ")
    terminal.prompt()
    terminal.type("Hello\n")
    terminal.expect("Hello\r\n")
    answer = terminal.expect("\r\n> ")  # random weights say every byte there is
    assert not [char for char in answer if (char < " " and char not in "\r\n\t") or "\x7f" <= char <= "\x9f"]
    terminal.type("/exit\n")
    assert terminal.end() == 0
