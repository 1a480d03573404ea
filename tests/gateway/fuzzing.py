"""What the fuzz tests send, what an answer may be, and a client that watches."""

import json
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("NIMBLE_FUZZ_CASES", "60"))
fuzz = settings(
    max_examples=CASES,
    deadline=15_000,  # milliseconds: a case that takes longer hangs
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=os.environ.get("NIMBLE_FUZZ_CASES") is None,
)
VICTIM = {"prompt": "import os\nimport sys\n", "max_tokens": 64, "stream": True}


@dataclass
class Bystander:
    """A client that asks the same thing over and over while others misbehave."""

    url: str
    wrong: list[str] = field(default_factory=list)
    answers: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._expected = self._ask()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _ask(self) -> str:
        answer = httpx.post(f"{self.url}/v1/completions", json=VICTIM, timeout=20)
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines)

    def _work(self) -> None:
        while not self._stop.wait(0.1):
            try:
                got = self._ask()
            except Exception as error:  # whatever it is, the test has to see it
                got = repr(error)
            self.answers += 1
            if got != self._expected:
                self.wrong.append(got)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def check(answer: httpx.Response) -> None:
    """No failure inside, and every refusal says why in OpenAI's or KServe's shape."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error if isinstance(error, str) else error["message"]


BASES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "import os", "max_tokens": 4}),
    ("/v1/completions", {"prompt": "import os", "suffix": "x", "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}),
    ("/v1/responses", {"input": "x", "max_output_tokens": 4}),
    ("/v1/fim/completions", {"prompt": "a", "suffix": "b", "max_tokens": 4}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 4}),
    ("/completion", {"prompt": "a", "n_predict": 4}),
    ("/tokenize", {"prompt": "a"}),
    ("/detokenize", {"tokens": [1, 2]}),
    ("/v2/models/tensorrt_llm/generate", {"input_ids": [1, 2], "input_lengths": 2, "request_output_len": 2}),
    ("/v2/models/ensemble/generate_stream", {"text_input": "x", "max_tokens": 2, "stream": True}),
    ("/v2/models/tensorrt_llm/infer", {"inputs": []}),
    (
        "/v2/models/ensemble/infer",
        {"inputs": [{"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}]},
    ),
]
FIELDS = [
    "prompt", "suffix", "messages", "tools", "tool_choice", "stop", "n", "max_tokens", "stream", "stream_options",
    "temperature", "top_p", "top_k", "seed", "lookahead", "stop_token_ids", "min_tokens", "ignore_eos", "echo",
    "logprobs", "input_extra", "input_prefix", "n_predict", "tokens", "response_fields", "t_max_predict_ms", "model",
    "return_token_ids", "repetition_penalty", "presence_penalty", "text_input", "input_ids", "input_lengths", "inputs",
    "request_output_len", "num_return_sequences", "input", "instructions", "text", "max_output_tokens",
    "lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size",
]  # fmt: skip
numbers = st.one_of(st.integers(-(2**70), 2**70), st.sampled_from([0, 1, 8, 2**31 - 1, 2**31, -1, 4095, 4096]))
strings = st.one_of(st.text(max_size=30), st.sampled_from(["<|fim_middle|>", "", "\x00", "🦀", "é" * 50, "a" * 3000]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.floats(allow_nan=False, allow_infinity=False), strings),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["type", "text", "role", "content", "function", "name", "id"]), inner, max_size=4
        ),
    ),
    max_leaves=12,
)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
tensors = st.builds(
    lambda name, datatype, shape: {"name": name, "datatype": datatype, "shape": shape},
    st.sampled_from(["input_ids", "input_lengths", "request_output_len", "streaming", "stop_words_list", *FIELDS[-4:]]),
    st.sampled_from(["INT32", "INT64", "BOOL", "FP32", "BYTES", "UINT8", ""]),
    st.lists(st.integers(-1, 9), max_size=3),
)
TEXT_MODELS = ("preprocessing", "postprocessing", "tensorrt_llm_bls")
FINE = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED,
}  # fmt: skip


def bytes_element(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "little") + text.encode()


COUNT_1, TEXT = b"\1\0\0\0", bytes_element("def ")
RUNNABLE = {
    "ensemble": {"text_input": ("BYTES", [1, 1], TEXT), "max_tokens": ("INT32", [1, 1], COUNT_1)},
    "tensorrt_llm_bls": {"text_input": ("BYTES", [1, 1], TEXT), "max_tokens": ("INT32", [1, 1], COUNT_1)},
    "preprocessing": {"QUERY": ("BYTES", [1, 1], TEXT), "REQUEST_OUTPUT_LEN": ("INT32", [1, 1], COUNT_1)},
    "postprocessing": {
        "TOKENS_BATCH": ("INT32", [1, 1, 2], b"\7\1\0\0" * 2),
        "SEQUENCE_LENGTH": ("INT32", [1, 1], COUNT_1),
    },
    "tensorrt_llm": {
        "input_ids": ("INT32", [1, 2], b"\7\1\0\0" * 2),
        "input_lengths": ("INT32", [1, 1], b"\2\0\0\0"),
        "request_output_len": ("INT32", [1, 1], COUNT_1),
    },
}
"""Requests that run, so that what is asked for around them counts."""
OUTPUTS = {
    "ensemble": ["text_output", "sequence_length"],
    "tensorrt_llm_bls": ["text_output", "cum_log_probs"],
    "preprocessing": ["INPUT_ID", "DECODER_INPUT_ID", "STOP_WORDS_IDS"],
    "postprocessing": ["OUTPUT"],
    "tensorrt_llm": ["output_ids", "sequence_length"],
}
values = st.one_of(
    st.booleans(), st.integers(-1, 3), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["", "1", "r"])
)
parameters = st.dictionaries(
    st.sampled_from(
        ["classification", "binary_data_size", "shared_memory_region", "priority", "timeout", "sequence_id",
         "sequence_start", "sequence_end", "headers", "triton_x", "triton_enable_empty_final_response",
         "binary_data_output", "draft_tokens", "min_p", "x"]
    ),
    values,
    max_size=1,
)  # fmt: skip
wanted = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.dictionaries(st.sampled_from(["classification", "binary_data", "shared_memory_offset", "x"]), values),
    ),
    max_size=2,
)
"""Which of a model's outputs, and their parameters."""


def set_parameters(message: Any, given: dict[str, Any]) -> None:
    for name, value in given.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
