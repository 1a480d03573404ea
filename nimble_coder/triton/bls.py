"""What the Triton model `tensorrt_llm_bls` does: text in, text out as it is generated, by calling the other models.

Unlike the ensemble it never splits a character between two responses, and it ends the engine's request when its own
client has gone. Names and meaning of the tensors: all_models/inflight_batcher_llm/tensorrt_llm_bls of
triton-inference-server/tensorrtllm_backend v0.19.0. Written against the interface of Triton's Python backend, which the
caller passes in.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from nimble_coder.contract.fields import OF_TOKENS, OWNER, PARAMETERS
from nimble_coder.text.detokenizer import Detokenizer
from nimble_coder.text.element import text_of
from nimble_coder.text.stops import StopMatcher
from nimble_coder.triton.leaving import Leaving
from nimble_coder.triton.sender import Sender

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
ONE = np.ones((1, 1), np.int32)


class Calls:
    """The other models, as functions on arrays; raises what `pb_utils` raises for their errors."""

    def __init__(self, pb_utils: Any, engine: str) -> None:
        self._pb = pb_utils
        self._engine = engine
        self.leaving = Leaving()

    def prepare(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """`preprocessing`: the engine's inputs that depend on the text."""
        question = {theirs: inputs[ours] for ours, theirs in PREPROCESSED.items() if ours in inputs}
        answer = self._call("preprocessing", question, list(PREPARED))
        prepared = {PREPARED[name]: array for name, array in answer.items()}
        return {name: array for name, array in prepared.items() if array.size}

    def decode(self, ids: list[int]) -> str:
        """`postprocessing`: the text of token ids."""
        batch = {"TOKENS_BATCH": np.array([[ids]], np.int32), "SEQUENCE_LENGTH": np.array([[len(ids)]], np.int32)}
        text: bytes = self._call("postprocessing", batch, ["OUTPUT"])["OUTPUT"].reshape(-1)[0]
        return text.decode()

    def generate(
        self, inputs: dict[str, Array], request_id: str, outputs: list[str], parameters: dict[str, Any]
    ) -> Iterator[dict[str, Array]]:
        """The engine's responses as they come."""
        for response in self._request(self._engine, inputs, outputs, request_id, parameters).exec(decoupled=True):
            yield self._arrays(response)

    def stop(self, request_id: str) -> None:
        """Ends the engine's request of that id."""
        inputs = {"stop": np.array([[True]]), "input_ids": ONE, "input_lengths": ONE, "request_output_len": ONE}
        for _ in self._request(self._engine, inputs, ["output_ids"], request_id).exec(decoupled=True):
            pass

    def _call(self, model: str, inputs: dict[str, Array], outputs: list[str]) -> dict[str, Array]:
        return self._arrays(self._request(model, inputs, outputs, "").exec())

    def _request(
        self,
        model: str,
        inputs: dict[str, Array],
        outputs: list[str],
        request_id: str,
        parameters: dict[str, Any] | None = None,
    ) -> Any:
        tensors = [self._pb.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()]
        return self._pb.InferenceRequest(
            model_name=model,
            inputs=tensors,
            requested_output_names=outputs,
            request_id=request_id,
            parameters=parameters or {},
        )

    def _arrays(self, response: Any) -> dict[str, Array]:
        if response.has_error():
            raise self._pb.TritonModelException(response.error().message())
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


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


class TextRequest:
    """One request of a client: a prompt as text."""

    def __init__(self, request: Any, pb_utils: Any, calls: Calls, accumulate: bool) -> None:
        self._pb = pb_utils
        self._calls = calls
        self._accumulate = accumulate
        self._inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        given = json.loads(request.parameters() or "{}")
        self._parameters = {name: given[name] for name in (OWNER, *PARAMETERS) if name in given}
        """Whose it is, and what the client asks for beside the inputs: the engine goes by them."""
        self._sender = Sender(request, pb_utils)

    def run(self) -> None:
        """Answers the request, whatever happens.

        An error is the last response: a client that leaves at it would meet Triton (2.51) between the two.
        """
        try:
            self._check()
            request_id = uuid4().hex
            with self._calls.leaving.watch(self._sender, partial(self._calls.stop, request_id)):
                if not self._sender.is_cancelled():  # it may have waited for its turn
                    self._generate(request_id)
        except ValueError as error:
            self._sender.fail(str(error), self._pb.TritonError.INVALID_ARG, is_last=True)
        except Exception as error:
            # Most often another model's error, or one that keeps this one from being called.
            self._sender.fail(str(error), self._pb.TritonError.INTERNAL, is_last=True)
        else:
            self._sender.close()

    def _check(self) -> None:
        if len(self._inputs["text_input"]) != 1:
            raise ValueError("one prompt per request: send the prompts as separate requests, they run together")
        if given := [name for name in UNSUPPORTED if name in self._inputs and self._inputs[name].size]:
            raise ValueError(f"input {given[0]} is not supported: this model reads text and nothing else")
        if given := [name for name in UNSUPPORTED_FLAGS if name in self._inputs and self._inputs[name].any()]:
            raise ValueError(f"{given[0]} is not supported by this model: leave it out, or ask tensorrt_llm")
        if given := [name for name in OF_TOKENS if self._parameters.get(name)]:
            raise ValueError(f"{given[0]} is not supported by this model: leave it out, or ask tensorrt_llm")

    def _generate(self, request_id: str) -> None:
        # A flag comes without its batch dimension here, and the engine wants one.
        passed = {theirs: self._inputs[ours].reshape(1, -1) for ours, theirs in PASSED.items() if ours in self._inputs}
        is_streamed = bool(passed.get("streaming", np.zeros(1)).any())
        # Also where the text goes out at once: a client that has gone, or a stop word, is noticed between steps.
        passed["streaming"] = np.ones((1, 1), np.bool_)
        outputs = [*dict.fromkeys(["output_ids", SEQUENCE, *self._extra_outputs()])]
        texts = defaultdict(self._text, {0: self._text()})
        sequences = max(self._count("num_return_sequences"), 1)
        inputs = {**self._calls.prepare(self._inputs), **passed}
        parameters = {name: as_parameter(value) for name, value in self._parameters.items()}
        for answer in self._calls.generate(inputs, request_id, outputs, parameters):
            text = texts[int(answer[SEQUENCE].reshape(-1)[0]) if SEQUENCE in answer else 0]
            text.add(answer)
            if sum(each.is_stopped for each in texts.values()) == sequences:
                self._calls.stop(request_id)
                break
            if is_streamed and text.unsent:
                self._send(text)
        prompt = "" if is_streamed else self._repeated_prompt()
        for _, text in sorted(texts.items()):
            text.finish()
            if text.others or text.unsent or not text.is_begun:
                self._send(text, prompt)

    def _text(self) -> GrowingText:
        return GrowingText(self._calls.decode, self._stop_words(), self._count("min_length"))

    def _send(self, text: GrowingText, prompt: str = "") -> None:
        shown = prompt + (text.certain if self._accumulate else text.unsent)
        self._sender.send({"text_output": np.array([shown.encode()], np.object_), **text.others})
        text.mark_sent()

    def _repeated_prompt(self) -> str:
        """The prompt where a whole text is to begin with it, as TensorRT-LLM's does unless it is excluded."""
        excluded = self._inputs.get("exclude_input_in_output", np.ones(1))
        prompt = self._inputs["text_input"].reshape(-1)[0]
        return "" if excluded.any() else prompt.decode("utf-8", "replace")

    def _stop_words(self) -> list[str]:
        words = self._inputs.get("stop_words", np.zeros(0, np.object_)).reshape(-1)
        return [text_of(word) for word in words]

    def _count(self, name: str) -> int:
        return int(self._inputs[name].reshape(-1)[0]) if name in self._inputs else 0

    def _extra_outputs(self) -> list[str]:
        return sorted(self._sender.wanted - {"text_output"})


def as_parameter(value: object) -> object:
    """A request parameter as one model may send it to another: Triton (2.51) takes no fractions from a Python model."""
    return str(value) if isinstance(value, float) else value
