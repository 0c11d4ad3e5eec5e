"""A job's events within the event loop, as text; a client that leaves. Knows nothing of OpenAI's shapes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from starlette.requests import Request

from distilledprag.engine.job import End, Event, Job, Token
from distilledprag.engine.text import TextWriter

Submit = Callable[[Callable[[Event], None]], Job]


@dataclass
class Answer:
    """One answer being written. Iterate `pieces`; `finish_reason` is known at their end, `tokens` counts what was written."""

    prompt_tokens: int
    writer: TextWriter
    tokens: int = 0
    finish_reason: str = "stop"
    job: Job | None = None
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)

    def start(self, submit: Submit, at_once: bool = False) -> None:
        """Put it into the queue. at_once: nobody needs a piece before the end, so the event loop is woken only then.
        Raises what `Engine.submit` does."""
        loop = asyncio.get_running_loop()
        written: list[Event] = []

        def listener(event: Event) -> None:
            if at_once:
                written.append(event)
                if isinstance(event, End):
                    forward(written)
            else:
                forward([event])

        def forward(events: list[Event]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(put, events)

        def put(events: list[Event]) -> None:
            for event in events:
                self._events.put_nowait(event)

        self.job = submit(listener)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Texts that are not empty. Raises the RequestError that the job ended with. Leaving it cancels the job."""
        assert self.job is not None
        try:
            while not isinstance(event := await self._events.get(), End):
                assert isinstance(event, Token)
                self.tokens += 1
                if text := self.writer.add(event.id):
                    yield text
                if self.writer.stopped:
                    return
            if event.error is not None:
                raise event.error
            self.finish_reason = event.reason or "stop"
            if text := self.writer.finish():
                yield text
            if self.writer.stopped:
                self.finish_reason = "stop"
        finally:
            self.job.cancel()

    async def whole(self, request: Request) -> str | None:
        """The whole text; None when the client left before it was finished."""
        writing = asyncio.create_task(self._joined())
        leaving = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
            return await writing if writing.done() else None
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _joined(self) -> str:
        async with contextlib.aclosing(self.pieces()) as pieces:
            return "".join([piece async for piece in pieces])


async def _gone(request: Request) -> None:
    """Wait until the client leaves; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
