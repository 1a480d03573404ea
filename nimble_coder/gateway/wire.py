"""How an answer looks on the wire: the part that every API's format has to say, and OpenAI's text completion.

A streamed chunk is a fixed head, the text as JSON and a fixed tail, joined as bytes: building and serialising an object
per token would cost more than everything else the gateway does for it.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET

from nimble_coder.gateway.answers import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionLogProbs,
    FinishReason,
    Usage,
)
from nimble_coder.gateway.exchange import EVENT_STREAM
from nimble_coder.gateway.transcript import Delta, Transcript

encode = msgspec.json.Encoder().encode
TokenBytes = Callable[[int], bytes]
DONE = b"data: [DONE]\n\n"


class Wire(Protocol):
    """One API's response format, for one request. `index` is the choice's number."""

    stream_type: bytes

    def opening(self, index: int, usage: Usage | None) -> bytes:
        """What a stream says of a choice before its first text."""

    def delta(self, index: int, delta: Delta, usage: Usage | None) -> bytes:
        """A chunk of a choice's text."""

    def ending(self, index: int, transcript: Transcript, usage: Usage | None) -> bytes:
        """The chunk that says why a choice ended."""

    def closing(self, usage: Usage) -> bytes:
        """What ends the stream."""

    def whole(self, texts: Sequence[str], transcripts: Sequence[Transcript], usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""


class CompletionWire:
    """OpenAI's `text_completion`."""

    stream_type = EVENT_STREAM

    def __init__(
        self,
        request_id: str,
        model: str,
        token_bytes: TokenBytes,
        include_usage: bool,
        include_ids: bool,
        echoes: Sequence[str],
        prompts: Sequence[list[int]] = (),
    ) -> None:
        """`echoes` has what every choice repeats before its own text, `prompts` the ids of its prompt."""
        self._id = f"cmpl-{request_id}"
        self._model = model
        self._created = int(time.time())
        self._include_usage = include_usage
        self._include_ids = include_ids
        self._prompts = prompts
        self._token_bytes = token_bytes
        self._offsets = [len(echo) for echo in echoes]
        """Where the next token of every choice begins in its text."""
        # A stream's head ends inside `choices`, the last field that it has.
        self._head = b"data: " + encode(CompletionChunk(self._id, self._created, model, []))[:-2]

    def opening(self, index: int, usage: Usage | None) -> bytes:
        if not self._include_ids:
            return b""
        return (
            b'%b{"index":%d,"text":"","logprobs":null,"finish_reason":null,"token_ids":[],"prompt_token_ids":%b}]%b'
            % (self._head, index, encode(self._prompts[index]), self._tail(usage))
        )  # fmt: skip

    def delta(self, index: int, delta: Delta, usage: Usage | None) -> bytes:
        ids = b',"token_ids":' + encode(delta.token_ids) if self._include_ids else b""
        log_probs = encode(self._log_probs(index, delta.token_ids, delta.log_probs)) if delta.log_probs else b"null"
        tail = self._tail(usage)
        return (
            b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":null%b}]%b'
            % (self._head, index, encode(delta.text), log_probs, ids, tail)
        )  # fmt: skip

    def ending(self, index: int, transcript: Transcript, usage: Usage | None) -> bytes:
        reason, stop = encode(transcript.finish_reason), encode(transcript.stop_string)
        return (
            b'%b{"index":%d,"text":"","logprobs":null,"finish_reason":%b,"stop_reason":%b}]%b'
            % (self._head, index, reason, stop, self._tail(usage))
        )  # fmt: skip

    def closing(self, usage: Usage) -> bytes:
        return (self._head + b"]" + self._tail(usage) if self._include_usage else b"") + DONE

    def whole(self, texts: Sequence[str], transcripts: Sequence[Transcript], usage: Usage) -> bytes:
        choices = [
            CompletionChoice(
                index,
                text,
                self._log_probs(index, transcript.token_ids, transcript.log_probs),
                reason_of(transcript),
                transcript.stop_string,
                transcript.token_ids if self._include_ids else UNSET,
                self._prompts[index] if self._include_ids else UNSET,
            )
            for index, (text, transcript) in enumerate(zip(texts, transcripts, strict=True))
        ]
        return encode(Completion(self._id, self._created, self._model, choices, usage))

    def _log_probs(self, index: int, token_ids: list[int], values: list[float]) -> CompletionLogProbs | None:
        """OpenAI's `logprobs` of a completion: the chosen tokens' only."""
        if not values:
            return None
        texts = [self._token_bytes(token).decode(errors="replace") for token in token_ids]
        *offsets, self._offsets[index] = itertools.accumulate(map(len, texts), initial=self._offsets[index])
        return CompletionLogProbs(texts, values, offsets)

    def _tail(self, usage: Usage | None) -> bytes:
        return b',"usage":%b}\n\n' % encode(usage) if usage else b"}\n\n"


def reason_of(transcript: Transcript) -> FinishReason:
    """Why an answer that is complete has ended."""
    assert transcript.finish_reason is not None  # noqa: S101 - a generation ends with a reason or an error
    return transcript.finish_reason
