"""OpenAI's `chat.completion` on the wire; Mistral's fill-in-the-middle endpoint answers in the same shape."""

import time
from collections.abc import Iterable, Iterator, Sequence

from msgspec import UNSET

from nimble_coder.contract.response import Ranked
from nimble_coder.gateway.answers.bodies.chat import (
    AssistantMessage,
    CalledFunctionChunk,
    CalledTool,
    CalledToolChunk,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatFinishReason,
    ChatLogProbs,
    TokenLogProb,
    TopLogProb,
)
from nimble_coder.gateway.answers.bodies.usage import Usage
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.answers.tools import Piece, ToolCallParser, gather
from nimble_coder.gateway.answers.transcript import Delta, Transcript
from nimble_coder.gateway.answers.wire import DONE, TokenBytes, encode, reason_of
from nimble_coder.gateway.exchange import EVENT_STREAM

NO_CALLS = Calling()


class ChatWire:
    """Chunks and bodies of a chat answer; with tools, the calls in it are told from its text."""

    stream_type = EVENT_STREAM

    def __init__(
        self,
        request_id: str,
        model: str,
        token_bytes: TokenBytes,
        include_usage: bool = False,
        include_ids: bool = False,
        calling: Calling = NO_CALLS,
        prompt: Sequence[int] = (),
    ) -> None:
        """`prompt` has the prompt's ids, which go out with those of the answer."""
        self._id = f"chatcmpl-{request_id}"
        self._model = model
        self._created = int(time.time())
        self._include_usage = include_usage
        self._include_ids = include_ids
        self._prompt = list(prompt) if include_ids else UNSET
        self._calling = calling
        self._token_bytes = token_bytes
        self._parsers: dict[int, ToolCallParser] = {}
        # A stream's head ends inside `choices`, the last field that it has.
        self._head = b"data: " + encode(ChatChunk(self._id, self._created, model, []))[:-2]

    def opening(self, index: int, usage: Usage | None) -> bytes:
        chunk = self._chunk(index, b'{"role":"assistant","content":""}', b"null", usage)
        if not self._include_ids:
            return chunk
        return b'%b,"prompt_token_ids":%b}\n\n' % (chunk.removesuffix(b"}\n\n"), encode(self._prompt))

    def delta(self, index: int, delta: Delta, usage: Usage | None) -> bytes:
        ids = b',"token_ids":' + encode(delta.token_ids) if self._include_ids else b""
        log_probs = encode(self._log_probs(delta.token_ids, delta.log_probs, delta.top)) if delta.log_probs else b"null"
        if not self._calling.names:
            shown = [b'{"content":%b}' % encode(delta.text)] if delta.text else []
        else:
            shown = [*self._shown(index, self._parser(index).push(delta.text))]
        if not shown and not self._include_ids and not delta.log_probs:
            return b""
        first, *others = shown or [b'{"content":""}']
        whole = self._chunk(index, first, b"null" + ids, usage, log_probs)
        return whole + b"".join(self._chunk(index, each, b"null", usage) for each in others)

    def echo(self, index: int, transcript: Transcript) -> bytes:  # noqa: ARG002
        return b""

    def ending(self, index: int, transcript: Transcript, usage: Usage | None) -> bytes:
        reason: ChatFinishReason = reason_of(transcript)
        before = b""
        if self._calling.names:
            shown = self._shown(index, self._parser(index).finish())
            before = b"".join(self._chunk(index, each, b"null", None) for each in shown)
            reason = self._parser(index).reason(reason_of(transcript))
        ended = b'%b,"stop_reason":%b' % (encode(reason), encode(transcript.stop_reason))
        return before + self._chunk(index, b"{}", ended, usage)

    def _shown(self, index: int, pieces: Iterable[Piece]) -> Iterator[bytes]:
        """Deltas of a message, one a piece."""
        for piece in pieces:
            if piece.call is None:
                yield b'{"content":%b}' % encode(piece.text)
                continue
            function = CalledFunctionChunk(piece.text, UNSET if piece.name is None else piece.name)
            if self._calling.is_legacy:
                yield encode(ChatDelta(function_call=function))
            elif piece.name is None:
                yield encode(ChatDelta(tool_calls=[CalledToolChunk(piece.call, function)]))
            else:
                tool = CalledToolChunk(piece.call, function, self._call_id(index, piece.call), "function")
                yield encode(ChatDelta(tool_calls=[tool]))

    def closing(self, usage: Usage) -> bytes:
        return (self._head + b"]" + self._tail(usage) if self._include_usage else b"") + DONE

    def whole(self, texts: Sequence[str], transcripts: Sequence[Transcript], usage: Usage) -> bytes:
        choices = [
            self._choice(index, text, transcript)
            for index, (text, transcript) in enumerate(zip(texts, transcripts, strict=True))
        ]
        return encode(ChatCompletion(self._id, self._created, self._model, choices, usage, self._prompt))

    def _choice(self, index: int, text: str, transcript: Transcript) -> ChatChoice:
        message = AssistantMessage("assistant", text)
        reason: ChatFinishReason = reason_of(transcript)
        if self._calling.names:
            parser = self._parser(index)
            message.content, calls = gather([*parser.push(text), *parser.finish()])
            if calls:
                message.content = message.content or None
                reason = parser.reason(reason_of(transcript))
                if self._calling.is_legacy:
                    message.function_call = calls[0]
                else:
                    message.tool_calls = [CalledTool(self._call_id(index, n), call) for n, call in enumerate(calls)]
        log_probs = self._log_probs(transcript.token_ids, transcript.log_probs, transcript.top)
        ids = transcript.token_ids if self._include_ids else UNSET
        return ChatChoice(index, message, log_probs, reason, transcript.stop_reason, ids)

    def _log_probs(self, token_ids: list[int], values: list[float], top: list[Ranked]) -> ChatLogProbs | None:
        """OpenAI's `logprobs` of a chat."""
        if not values:
            return None
        content = []
        for token, value, ranked in zip(token_ids, values, top or [[] for _ in values], strict=True):
            others = [TopLogProb(*self._named(other, its)) for other, its in ranked]
            content.append(TokenLogProb(*self._named(token, value), others))
        return ChatLogProbs(content)

    def _named(self, token: int, value: float) -> tuple[str, float, list[int]]:
        piece = self._token_bytes(token)
        return piece.decode(errors="replace"), value, list(piece)

    def _parser(self, index: int) -> ToolCallParser:
        return self._parsers.setdefault(index, ToolCallParser(self._calling))

    def _call_id(self, index: int, number: int) -> str:
        return f"call_{self._id[9:]}_{index}_{number}"

    def _chunk(self, index: int, delta: bytes, reason: bytes, usage: Usage | None, log_probs: bytes = b"null") -> bytes:
        return (
            b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]%b'
            % (self._head, index, delta, log_probs, reason, self._tail(usage))
        )  # fmt: skip

    def _tail(self, usage: Usage | None) -> bytes:
        return b',"usage":%b}\n\n' % encode(usage) if usage else b"}\n\n"
