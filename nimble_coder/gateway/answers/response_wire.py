"""OpenAI's `response` on the wire: the text and the calls of an answer as items, whole or as the events of a stream."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from nimble_coder.gateway.answers.bodies.responses import (
    ArgumentsDelta,
    ArgumentsDone,
    CachedTokens,
    Completed,
    Created,
    Failed,
    Incomplete,
    IncompleteDetails,
    InProgress,
    Item,
    ItemAdded,
    ItemDone,
    ItemStatus,
    OutputCall,
    OutputMessage,
    OutputText,
    PartAdded,
    PartDone,
    ReasoningTokens,
    Response,
    ResponseFailure,
    ResponseUsage,
    TextDelta,
    TextDone,
)
from nimble_coder.gateway.answers.bodies.usage import Usage
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.answers.tools import Piece, ToolCallParser
from nimble_coder.gateway.answers.transcript import Delta, Transcript
from nimble_coder.gateway.answers.wire import encode, reason_of
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.exchange import EVENT_STREAM
from nimble_coder.gateway.requests.schemas.responses import ResponsesRequest

FAILURES = {400: "invalid_prompt", 413: "invalid_prompt", 429: "rate_limit_exceeded"}
"""OpenAI's codes by status; every other one is the server's."""


class ResponseWire:
    """One response, which has one choice. Nothing of it is kept, so that a client sends what went before again."""

    stream_type = EVENT_STREAM

    def __init__(self, request_id: str, model: str, asked: ResponsesRequest, calling: Calling) -> None:
        self._request_id = request_id
        self._parser = ToolCallParser(calling) if calling.names else None
        self._response = begun(f"resp_{request_id}", model, asked)
        self._sequence = 0
        self._opening = b""
        self._is_opened = False
        """Whether the opening has gone out."""
        self._open: Item | None = None
        """The last item, while more may come of it."""
        self._parts: list[str] = []
        """Of its text, or of its arguments."""

    def opening(self, index: int, usage: Usage | None) -> bytes:  # noqa: ARG002
        self._opening = self._joined(event(self._next(), self._response) for event in (Created, InProgress))
        return self._opening

    def delta(self, index: int, delta: Delta, usage: Usage | None) -> bytes:  # noqa: ARG002
        pieces = self._parser.push(delta.text) if self._parser else [Piece(delta.text)] if delta.text else []
        events = self._joined(self._goes_on(pieces))
        self._is_opened = self._is_opened or bool(events)
        return events

    def echo(self, index: int, transcript: Transcript) -> bytes:  # noqa: ARG002
        return b""

    def ending(self, index: int, transcript: Transcript, usage: Usage | None) -> bytes:  # noqa: ARG002
        self._is_opened = True
        return self._joined(self._ends(transcript))

    def closing(self, usage: Usage) -> bytes:
        self._response.usage = response_usage(usage)
        kind = Completed if self._response.status == "completed" else Incomplete
        return self._joined([kind(self._next(), self._response)])

    def failing(self, error: ApiError) -> bytes:
        """What ends a stream that has begun and fails."""
        self._response.status = "failed"
        code: Any = FAILURES.get(error.status, "server_error")
        self._response.error = ResponseFailure(code, error.message)
        return (b"" if self._is_opened else self._opening) + self._joined([Failed(self._next(), self._response)])

    def whole(self, texts: Sequence[str], transcripts: Sequence[Transcript], usage: Usage) -> bytes:
        pieces = self._parser.push(texts[0]) if self._parser else [Piece(texts[0])] if texts[0] else []
        for _ in (*self._goes_on(pieces), *self._ends(transcripts[0])):
            pass
        self._response.usage = response_usage(usage)
        return encode(self._response)

    def _goes_on(self, pieces: Iterable[Piece]) -> Iterator[Struct]:
        """The events of what comes next."""
        for piece in pieces:
            if piece.call is None and not isinstance(self._open, OutputMessage):
                yield from self._closes("completed")
                yield from self._opens_message()
            elif piece.name is not None:
                yield from self._closes("completed")
                yield from self._opens_call(piece.name)
            if piece.text and self._open:
                self._parts.append(piece.text)
                yield self._more(self._open, piece.text)

    def _more(self, item: Item, text: str) -> Struct:
        place = len(self._response.output)
        if isinstance(item, OutputMessage):
            return TextDelta(self._next(), item.id, place, 0, text, [])
        return ArgumentsDelta(self._next(), item.id, place, text)

    def _opens_message(self) -> Iterator[Struct]:
        place = len(self._response.output)
        self._open = message = OutputMessage(f"msg_{self._request_id}_{place}", "in_progress", "assistant", [])
        yield ItemAdded(self._next(), place, message)
        yield PartAdded(self._next(), message.id, place, 0, OutputText("", [], []))

    def _opens_call(self, name: str) -> Iterator[Struct]:
        place = len(self._response.output)
        ids = f"fc_{self._request_id}_{place}", f"call_{self._request_id}_{place}"
        self._open = OutputCall(*ids, name, "", "in_progress")
        yield ItemAdded(self._next(), place, self._open)

    def _ends(self, transcript: Transcript) -> Iterator[Struct]:
        """The events of the answer's end; an answer without text is a message without."""
        if self._parser:
            yield from self._goes_on(self._parser.finish())
        if not (self._open or self._response.output):
            yield from self._opens_message()
        own = reason_of(transcript)
        is_cut = (self._parser.reason(own) if self._parser else own) == "length"
        yield from self._closes("incomplete" if is_cut else "completed")
        self._response.status = "incomplete" if is_cut else "completed"
        self._response.completed_at = None if is_cut else int(time.time())
        self._response.incomplete_details = IncompleteDetails("max_output_tokens") if is_cut else None

    def _closes(self, status: ItemStatus) -> Iterator[Struct]:
        """The events of the end of an item, if there is one."""
        item, text, place = self._open, "".join(self._parts), len(self._response.output)
        self._open, self._parts = None, []
        if item is None:
            return
        if isinstance(item, OutputMessage):
            part = OutputText(text, [], [])
            yield TextDone(self._next(), item.id, place, 0, text, [])
            yield PartDone(self._next(), item.id, place, 0, part)
            item = structs.replace(item, status=status, content=[part])
        else:
            yield ArgumentsDone(self._next(), item.id, place, item.name, text)
            item = structs.replace(item, status=status, arguments=text)
        self._response.output.append(item)
        yield ItemDone(self._next(), place, item)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    @staticmethod
    def _joined(events: Iterable[Struct]) -> bytes:
        """Events as they are sent, each encoded before the next one is made."""
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (str(event.__struct_config__.tag).encode(), encode(event)) for event in events
        )


def begun(response_id: str, model: str, asked: ResponsesRequest) -> Response:
    """The response before there is anything of it."""
    given = msgspec.to_builtins(asked.text.format) if asked.text and asked.text.format else {}
    return Response(
        id=response_id,
        created_at=int(time.time()),
        status="in_progress",
        model=model,
        output=[],
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        metadata=asked.metadata or {},
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        reasoning={"effort": None, "summary": None},
        temperature=asked.temperature or 0.0,
        text={"format": {"type": "text", **{name: value for name, value in given.items() if value is not None}}},
        tool_choice="auto" if asked.tool_choice is None else asked.tool_choice,
        tools=[{"type": "function", **msgspec.to_builtins(tool.offered)} for tool in asked.tools or []],
        top_p=1.0 if asked.top_p is None else asked.top_p,
        user=asked.user,
        safety_identifier=asked.safety_identifier,
        prompt_cache_key=asked.prompt_cache_key,
    )


def response_usage(usage: Usage) -> ResponseUsage:
    """The same counts by other names."""
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return ResponseUsage(
        usage.prompt_tokens,
        CachedTokens(cached, 0),
        usage.completion_tokens,
        ReasoningTokens(0),
        usage.total_tokens,
    )
