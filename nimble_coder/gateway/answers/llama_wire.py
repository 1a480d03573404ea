"""llama.cpp's completion format on the wire (tools/server/README.md there), as `/infill` and `/completion` answer."""

from collections.abc import Sequence
from typing import Any

import msgspec

from nimble_coder.gateway.answers.bodies.llama import LlamaFields, LlamaResult, LlamaSettings, LlamaTimings, StopType
from nimble_coder.gateway.answers.bodies.usage import Usage
from nimble_coder.gateway.answers.transcript import Delta, Transcript
from nimble_coder.gateway.answers.wire import encode
from nimble_coder.gateway.exchange import EVENT_STREAM
from nimble_coder.gateway.requests.schemas.llama import RANDOM_SEED, LlamaRequest
from nimble_coder.text.tokenizer import TextTokenizer


class LlamaWire:
    """Chunks `{content, tokens, stop}`, and a last object with everything else."""

    stream_type = EVENT_STREAM

    def __init__(
        self,
        model: str,
        prompts: Sequence[list[int]],
        asked: LlamaRequest,
        tokenizer: TextTokenizer,
        truncated: bool,
    ) -> None:
        """`prompts` has the ids of every choice's prompt."""
        self._model = model
        self._prompts = prompts
        self._asked = asked
        self._tokenizer = tokenizer
        self._truncated = truncated
        self._with_lines: set[int] = set()
        """The choices that have had a line's end."""

    def opening(self, index: int, usage: Usage | None) -> bytes:  # noqa: ARG002
        return b""

    def delta(self, index: int, delta: Delta, usage: Usage | None) -> bytes:  # noqa: ARG002
        if "\n" in delta.text:
            self._with_lines.add(index)
        tokens = encode(delta.token_ids)
        return b'data: {"index":%d,"content":%b,"tokens":%b,"stop":false}\n\n' % (index, encode(delta.text), tokens)

    def echo(self, index: int, transcript: Transcript) -> bytes:  # noqa: ARG002
        return b""

    def ending(self, index: int, transcript: Transcript, usage: Usage | None) -> bytes:  # noqa: ARG002
        return b"data: %b\n\n" % encode(self._chosen(self._result(index, "", transcript)))

    def closing(self, usage: Usage) -> bytes:  # noqa: ARG002
        return b""

    def whole(self, texts: Sequence[str], transcripts: Sequence[Transcript], usage: Usage) -> bytes:  # noqa: ARG002
        results = [self._result(i, text, t) for i, (text, t) in enumerate(zip(texts, transcripts, strict=True))]
        chosen = [self._chosen(result) for result in results]
        return encode(chosen[0] if len(chosen) == 1 else chosen)

    def _result(self, index: int, text: str, transcript: Transcript) -> LlamaResult:
        tokens, prompt_tokens = transcript.tokens, len(self._prompts[index])
        fields = self._asked.response_fields
        return LlamaResult(
            index=index,
            content=text,
            prompt=self._prompt(index) if not fields or "prompt" in fields else "",
            tokens=transcript.token_ids if self._asked.return_tokens and text else [],
            id_slot=0,
            stop=True,
            model=self._model,
            tokens_predicted=tokens,
            tokens_evaluated=prompt_tokens,
            tokens_cached=prompt_tokens + tokens,
            generation_settings=self._settings(),
            has_new_line=index in self._with_lines or "\n" in text,
            truncated=self._truncated,
            stop_type=self._stop_type(transcript),
            stopping_word=stopping_word(transcript),
            timings=self._timings(transcript, tokens, prompt_tokens),
        )

    def _prompt(self, index: int) -> str:
        return self._tokenizer.decode(self._prompts[index], skip_special_tokens=False)

    def _settings(self) -> LlamaSettings:
        """What is in force."""
        return LlamaSettings(
            n_predict=self._asked.wanted_tokens,
            seed=RANDOM_SEED if self._asked.own_seed is None else self._asked.own_seed,
            temperature=self._asked.temperature or 0.0,
            top_k=self._asked.top_k or 0,
            top_p=1.0 if self._asked.top_p is None else self._asked.top_p,
            stop=list(self._asked.stops),
            stream=bool(self._asked.stream),
        )

    @staticmethod
    def _stop_type(transcript: Transcript) -> StopType:
        if stopping_word(transcript):
            return "word"
        return "limit" if transcript.finish_reason == "length" else "eos"

    def _timings(self, transcript: Transcript, tokens: int, prompt_tokens: int) -> LlamaTimings:
        first = transcript.first_token or transcript.finished
        prompt_ms = (first - transcript.started) * 1000
        predicted_ms = (transcript.finished - first) * 1000
        return LlamaTimings(
            prompt_n=prompt_tokens,
            prompt_ms=prompt_ms,
            prompt_per_token_ms=prompt_ms / max(prompt_tokens, 1),
            prompt_per_second=1000 * prompt_tokens / max(prompt_ms, 0.001),
            predicted_n=tokens,
            predicted_ms=predicted_ms,
            predicted_per_token_ms=predicted_ms / max(tokens, 1),
            predicted_per_second=1000 * tokens / max(predicted_ms, 0.001),
            draft_n=transcript.draft_tokens,
            draft_n_accepted=transcript.accepted_draft_tokens,
        )

    def _chosen(self, result: LlamaResult) -> LlamaResult | LlamaFields:
        """Only the `response_fields`, where they are given: `timings/prompt_n` stays the key of what it names."""
        if not self._asked.response_fields:
            return result
        fields, chosen = msgspec.to_builtins(result), {}
        for field in self._asked.response_fields:
            value: Any = fields
            for part in field.split("/"):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                chosen[field] = value
        return chosen


def stopping_word(transcript: Transcript) -> str:
    """The stop string that ended an answer, as text or as the id of the control token that it spells; empty if none."""
    return transcript.stop_reason if isinstance(transcript.stop_reason, str) else ""
