"""How an answer looks on the wire: the part that every API's format has to say, and OpenAI's text completion.

A streamed chunk is a fixed head, the text as JSON and a fixed tail, joined as bytes: building and serialising an object
per token would cost more than everything else the gateway does for it.
"""

import codecs
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET

from nimble_coder.contract.response import Ranked
from nimble_coder.gateway.answers.bodies.completion import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionLogProbs,
    FinishReason,
)
from nimble_coder.gateway.answers.bodies.usage import Usage
from nimble_coder.gateway.answers.transcript import Delta, Transcript
from nimble_coder.gateway.exchange import EVENT_STREAM
from nimble_coder.text.tokenizer import TextTokenizer

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

    def echo(self, index: int, transcript: Transcript) -> bytes:
        """What comes with the first text: the prompt, where it is repeated."""

    def ending(self, index: int, transcript: Transcript, usage: Usage | None) -> bytes:
        """The chunk that says why a choice ended."""

    def closing(self, usage: Usage) -> bytes:
        """What ends the stream."""

    def whole(self, texts: Sequence[str], transcripts: Sequence[Transcript], usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""


class Offsets:
    """Where tokens begin in a text: one within a character, where the character begins."""

    def __init__(self, start: int) -> None:
        self._place = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, piece: bytes) -> int:
        """Where the token of these bytes begins."""
        place = self._place
        self._place += len(self._decoder.decode(piece))
        return place


def joined(first: CompletionLogProbs, second: CompletionLogProbs) -> CompletionLogProbs:
    """Those of two runs of tokens side by side."""
    top = [*(first.top_logprobs or []), *(second.top_logprobs or [])]
    return CompletionLogProbs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        first.text_offset + second.text_offset,
        top or None,
    )


class CompletionWire:
    """OpenAI's `text_completion`."""

    stream_type = EVENT_STREAM

    def __init__(
        self,
        request_id: str,
        model: str,
        tokenizer: TextTokenizer,
        include_usage: bool,
        include_ids: bool,
        echoes: Sequence[str],
        prompts: Sequence[list[int]] = (),
        places: Sequence[list[int]] = (),
    ) -> None:
        """`echoes` has what every choice repeats before its own text, `prompts` the ids of its prompt. Their log
        probabilities are told where `places` has where each begins in what is repeated."""
        self._places = places
        self._id = f"cmpl-{request_id}"
        self._model = model
        self._created = int(time.time())
        self._include_usage = include_usage
        self._include_ids = include_ids
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._echoes = echoes
        self._offsets = [Offsets(len(echo)) for echo in echoes]
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
        log_probs = b"null"
        if delta.log_probs:
            log_probs = encode(self._log_probs(index, delta.token_ids, delta.log_probs, delta.top))
        return self._chunk(index, delta.text, log_probs, ids, usage)

    def echo(self, index: int, transcript: Transcript) -> bytes:
        if not self._echoes[index]:
            return b""
        return self._chunk(index, self._echoes[index], encode(self._of_prompt(index, transcript)), b"", None)

    def _chunk(self, index: int, text: str, log_probs: bytes, ids: bytes, usage: Usage | None) -> bytes:
        return (
            b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":null%b}]%b'
            % (self._head, index, encode(text), log_probs, ids, self._tail(usage))
        )  # fmt: skip

    def ending(self, index: int, transcript: Transcript, usage: Usage | None) -> bytes:
        reason, stop = encode(transcript.finish_reason), encode(transcript.stop_reason)
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
                self._of_all(index, transcript),
                reason_of(transcript),
                transcript.stop_reason,
                transcript.token_ids if self._include_ids else UNSET,
                self._prompts[index] if self._include_ids else UNSET,
            )
            for index, (text, transcript) in enumerate(zip(texts, transcripts, strict=True))
        ]
        return encode(Completion(self._id, self._created, self._model, choices, usage))

    def _of_all(self, index: int, transcript: Transcript) -> CompletionLogProbs | None:
        """`logprobs` of a whole choice."""
        said = self._log_probs(index, transcript.token_ids, transcript.log_probs, transcript.top)
        read = self._of_prompt(index, transcript)
        return joined(read, said) if read and said else read or said

    def _of_prompt(self, index: int, transcript: Transcript) -> CompletionLogProbs | None:
        """`logprobs` of an echoed prompt, all of whose text shows."""
        if not self._places:
            return None
        ids, values = self._prompts[index], [value for value, _ in transcript.prompt]
        top = [ranked for _, ranked in transcript.prompt]
        texts = list(map(self._text, ids))
        ranked = [None, *(self._ranked(*each) for each in zip(ids[1:], values, top, strict=True))]
        return CompletionLogProbs(texts, [None, *values], self._places[index], ranked if any(ranked) else None)

    def _log_probs(
        self, index: int, token_ids: list[int], values: list[float], top: list[Ranked]
    ) -> CompletionLogProbs | None:
        """OpenAI's `logprobs` of a completion."""
        if not values:
            return None
        shown = [b"" if i in self._tokenizer.special_ids else self._tokenizer.token_bytes(i) for i in token_ids]
        places = [self._offsets[index].next(piece) for piece in shown]
        ranked = [self._ranked(*each) for each in zip(token_ids, values, top, strict=True)] if top else []
        return CompletionLogProbs(list(map(self._text, token_ids)), [*values], places, [*ranked] or None)

    def _ranked(self, token: int, value: float, top: Ranked) -> dict[str, float]:
        """The most likely tokens and the chosen one; of tokens that read alike, the most likely."""
        found = {self._text(token): value} if top else {}
        for other, its in top:
            text = self._text(other)
            found[text] = max(its, found.get(text, its))
        return found

    def _text(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode(errors="replace")

    def _tail(self, usage: Usage | None) -> bytes:
        return b',"usage":%b}\n\n' % encode(usage) if usage else b"}\n\n"


def reason_of(transcript: Transcript) -> FinishReason:
    """Why an answer that is complete has ended."""
    assert transcript.finish_reason is not None  # noqa: S101 - a generation ends with a reason or an error
    return transcript.finish_reason
