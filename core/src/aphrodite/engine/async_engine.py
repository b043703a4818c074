"""AsyncEngine: the engine inside an asyncio program. Outputs as they come, aborted when nobody waits for them."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from aphrodite.blueprint import Blueprint
from aphrodite.engine.desk import Desk, OutputStream, Ticket
from aphrodite.engine.local import LocalEngine
from aphrodite.engine.requests import Prepared
from aphrodite.errors import UsageError
from aphrodite.types.outputs import RequestOutput
from aphrodite.types.progress import Progress
from aphrodite.types.sampling_params import SamplingParams

_INLINE_CHARS = 4096  # longer texts are tokenised on another thread, so that the event loop goes on


class AsyncEngine:
    """A model for asyncio programs.

        engine = await asyncio.to_thread(AsyncEngine, "path/or/hub-name")     # loading takes its time
        async for output in engine.generate("One prompt", SamplingParams(max_tokens=64)):
            print(output.outputs[0].text)
        await engine.aclose()

    Arguments and errors as for LLM. May be used from several event loops, each on a thread of its own.
    """

    def __init__(self, model: str, *, progress: Progress | None = None, **settings: Any) -> None:
        self._local = LocalEngine(model, progress, settings)
        self._lock = threading.Lock()
        self._desks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Desk] = weakref.WeakKeyDictionary()
        self._streams: weakref.WeakValueDictionary[str, OutputStream] = weakref.WeakValueDictionary()

    def generate(
        self,
        prompt: Any,
        sampling_params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
    ) -> AsyncIterator[RequestOutput]:
        """Continue one prompt: an output whenever there is more, each with all there is so far; the last is finished.

        request_id  what the output and `abort` call it; none that is running already
        The request starts with the first step of the iterator, which raises UsageError for what cannot be used. It is
        aborted when the iterator is closed or dropped, or the task that waits for it is cancelled.
        """
        front = self._local.frontend
        is_long = isinstance(prompt, str) and len(prompt) > _INLINE_CHARS
        return self._stream(lambda: front.prepare_one(prompt, sampling_params, priority), request_id, is_long)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        **how: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Answer one conversation, as `generate` does; `how` as in LLM.chat."""
        front = self._local.frontend

        def prepare() -> Prepared:
            (prepared,) = front.prepare_chat(messages, sampling_params, priority, **how)
            return prepared

        return self._stream(prepare, request_id, True)

    def abort(self, request_id: str) -> None:
        """End a request: its iterator gives a last output with finish_reason "abort". Unknown ids are ignored."""
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.abort()

    @property
    def blueprint(self) -> Blueprint:
        """What was decided for the engine, and why."""
        return self._local.blueprint

    def reset_prefix_cache(self) -> None:
        """Forget the KV blocks of all past requests. Waits for the step that is running."""
        self._local.loop.call(lambda engine: engine.reset_prefix_cache())

    def close(self) -> None:
        """Give back the device and its memory, after the step that is running; what still runs raises UsageError."""
        self._local.close()

    async def aclose(self) -> None:
        """As close, without holding up the event loop."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def _stream(self, prepare: Callable[[], Prepared], name: str | None, is_long: bool) -> OutputStream:
        if name is not None and name in self._streams and not self._streams[name].is_over:
            raise UsageError(f"request_id {name!r} is running already: choose another", subject="request_id")

        async def begin() -> Ticket:
            prepared = await asyncio.to_thread(prepare) if is_long else prepare()
            return self._desk().open(prepared, front.state(prepared, name))

        front = self._local.frontend
        stream = OutputStream(begin)
        if name is not None:
            self._streams[name] = stream
        return stream

    def _desk(self) -> Desk:
        """Where results for the running event loop are handed out."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._desks:
                self._desks[loop] = Desk(self._local.loop, loop)
            return self._desks[loop]
