"""What the Triton model `tensorrt_llm_bls` computes: text in, text out as it is generated, on NumPy arrays.

It never splits a character between two responses. Whoever drives it asks the other models: the model itself does
(`bls.py`), and the gateway, for its clients. Names and meaning of the tensors:
all_models/inflight_batcher_llm/tensorrt_llm_bls of triton-inference-server/tensorrtllm_backend v0.19.0.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nimble_coder.contract.fields import CALL, OF_TOKENS, OWNER, PARAMETERS
from nimble_coder.text.detokenizer import Detokenizer
from nimble_coder.text.element import text_of
from nimble_coder.text.stops import StopMatcher

Array = NDArray[Any]

PREPROCESSED = {
    "text_input": "QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
}
"""This model's inputs that `preprocessing` takes, with their names there."""
PREPARED = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
    "STOP_WORDS_IDS": "stop_words_list",
    "BAD_WORDS_IDS": "bad_words_list",
}
"""What `preprocessing` gives to the engine."""
PASSED = {
    "stream": "streaming",
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "length_penalty": "len_penalty",
    **{
        name: name
        for name in (
            "temperature",
            "repetition_penalty",
            "min_length",
            "presence_penalty",
            "frequency_penalty",
            "random_seed",
            "return_perf_metrics",
            "exclude_input_in_output",
            "num_return_sequences",
            "beam_width",
            "guided_decoding_guide_type",
            "guided_decoding_guide",
        )
    },
}
"""This model's inputs that go to the engine as they are."""
UNSUPPORTED = (
    "decoder_text_input",
    "image_input",
    "image_bytes_input",
    "image_url_input",
    "video_bytes_input",
    "prompt_embedding_table",
    "embedding_bias_words",
    "embedding_bias_weights",
    "num_draft_tokens",
    "lora_task_id",
    "lora_weights",
    "lora_config",
)
UNSUPPORTED_FLAGS = ("return_log_probs", "return_context_logits", "return_generation_logits", "use_draft_logits")
"""What is told of single tokens, of which several may be in one response here, or none."""
SEQUENCE = "sequence_index"
"""The output that says which of several sequences a response continues."""
HANDED_ON = (CALL, OWNER, *PARAMETERS)
"""The request parameters that the engine goes by: which it is, whose it is, and what the client asks for."""


class GrowingText:
    """What one sequence of a request says so far. Stop words are found as text, wherever the token boundaries fall, and
    are the end of it, as those that the engine finds are."""

    def __init__(self, decode: Callable[[list[int]], str], stop_words: list[str], min_tokens: int) -> None:
        """Stop words are not looked for in the first `min_tokens` tokens."""
        self._detokenizer = Detokenizer(decode)
        self._stops = StopMatcher(stop_words, shows_stop=True)
        self._free = min_tokens
        self._sent = 0
        self.certain = ""
        self.others: dict[str, Array] = {}
        """What came with tokens whose text is not sent yet."""

    @property
    def is_stopped(self) -> bool:
        return self._stops.matched is not None

    @property
    def is_begun(self) -> bool:
        """Whether some of it has been sent."""
        return self._sent > 0

    @property
    def unsent(self) -> str:
        """What is certain and has not been sent."""
        return self.certain[self._sent :]

    def mark_sent(self) -> None:
        """All that is certain has been sent."""
        self._sent, self.others = len(self.certain), {}

    def add(self, answer: dict[str, Array]) -> None:
        """Takes in what the engine has generated; behind a stop word that is nothing."""
        if self.is_stopped:
            return
        self.others |= answer
        ids = answer["output_ids"].reshape(-1).tolist() if "output_ids" in answer else []
        free, self._free = ids[: self._free], max(self._free - len(ids), 0)
        self.certain += self._detokenizer.push(free)
        self.certain += self._stops.push(self._detokenizer.push(ids[len(free) :]))

    def finish(self) -> None:
        """Nothing more will come: what waited for more is certain, too."""
        self.certain += self._stops.push(self._detokenizer.finish()) + self._stops.flush()


class TextGeneration:
    """One request of a client: a prompt as text, and what becomes of it."""

    def __init__(
        self,
        inputs: Mapping[str, Array],
        parameters: Mapping[str, object],
        wanted: frozenset[str],
        decode: Callable[[list[int]], str],
        accumulate: bool = False,
    ) -> None:
        """`wanted` names the outputs. Raises `ValueError` for what this model cannot answer."""
        self._inputs, self._parameters = inputs, parameters
        self._check()
        self._wanted = wanted
        self._accumulate = accumulate
        self._is_streamed = bool(inputs.get("stream", np.zeros(1)).any())
        self._sequences = max(self._count("num_return_sequences"), 1)
        stop_words = [text_of(word) for word in inputs.get("stop_words", np.zeros(0, np.object_)).reshape(-1)]
        self._texts: defaultdict[int, GrowingText] = defaultdict(
            lambda: GrowingText(decode, stop_words, self._count("min_length"))
        )
        _ = self._texts[0]  # which has an answer, even if nothing comes

    def _check(self) -> None:
        inputs = self._inputs
        if len(inputs["text_input"]) != 1:
            raise ValueError("one prompt per request: send the prompts as separate requests, they run together")
        if given := [name for name in UNSUPPORTED if name in inputs and inputs[name].size]:
            raise ValueError(f"input {given[0]} is not supported: this model reads text and nothing else")
        if given := [name for name in UNSUPPORTED_FLAGS if name in inputs and inputs[name].any()]:
            raise ValueError(f"{given[0]} is not supported by this model: leave it out, or ask tensorrt_llm")
        if given := [name for name in OF_TOKENS if self._parameters.get(name)]:
            raise ValueError(f"{given[0]} is not supported by this model: leave it out, or ask tensorrt_llm")

    @property
    def question(self) -> dict[str, Array]:
        """What `preprocessing` is asked."""
        return {theirs: self._inputs[ours] for ours, theirs in PREPROCESSED.items() if ours in self._inputs}

    def engine_inputs(self, prepared: Mapping[str, Array]) -> dict[str, Array]:
        """What the engine is asked, `prepared` being the answer of `preprocessing`."""
        given = {PREPARED[name]: array for name, array in prepared.items() if name in PREPARED and array.size}
        # A flag comes without its batch dimension here, and the engine wants one.
        passed = {theirs: self._inputs[ours].reshape(1, -1) for ours, theirs in PASSED.items() if ours in self._inputs}
        # Also where the text goes out at once: a client that has gone, or a stop word, is noticed between steps.
        return {**given, **passed, "streaming": np.ones((1, 1), np.bool_)}

    @property
    def engine_outputs(self) -> list[str]:
        """What the engine is asked for."""
        return [*dict.fromkeys(["output_ids", SEQUENCE, *sorted(self._wanted - {"text_output"})])]

    @property
    def is_over(self) -> bool:
        """Whether stop words have ended all sequences: nothing that the engine still says is shown."""
        stopped = sum(text.is_stopped for text in self._texts.values())
        return stopped == self._sequences

    def take(self, answer: dict[str, Array]) -> Iterator[dict[str, Array]]:
        """Takes a response of the engine in; yields what is to be sent now."""
        text = self._texts[int(answer[SEQUENCE].reshape(-1)[0]) if SEQUENCE in answer else 0]
        text.add(answer)
        if self._is_streamed and text.unsent and not self.is_over:
            yield self._outputs(text)

    def finish(self) -> Iterator[dict[str, Array]]:
        """Nothing more comes from the engine: yields what is still to be sent."""
        prompt = "" if self._is_streamed else self._repeated_prompt()
        for _, text in sorted(self._texts.items()):
            text.finish()
            if text.others or text.unsent or not text.is_begun:
                yield self._outputs(text, prompt)

    def _outputs(self, text: GrowingText, prompt: str = "") -> dict[str, Array]:
        shown = prompt + (text.certain if self._accumulate else text.unsent)
        outputs = {"text_output": np.array([shown.encode()], np.object_), **text.others}
        text.mark_sent()
        return {name: array for name, array in outputs.items() if name in self._wanted}

    def _repeated_prompt(self) -> str:
        """The prompt where a whole text is to begin with it, as TensorRT-LLM's does unless it is excluded."""
        excluded = self._inputs.get("exclude_input_in_output", np.ones(1))
        prompt = self._inputs["text_input"].reshape(-1)[0]
        return "" if excluded.any() else prompt.decode("utf-8", "replace")

    def _count(self, name: str) -> int:
        return int(self._inputs[name].reshape(-1)[0]) if name in self._inputs else 0
