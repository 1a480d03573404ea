"""Reads the few inputs of a KServe request that could harm other requests, in its three encodings, and checks them."""

import re
import struct
from codecs import BOM_UTF8
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import msgspec
from tritonclient.grpc import service_pb2

from build_engine.artifact import ENGINE_MODEL, PLAIN_MODEL
from build_engine.lookahead import LookaheadConfig, LookaheadError
from nimble_coder.contract.fields import CALL, DRAFT_POOL, LOOKAHEAD, OWNER
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.reading import decode_fields, decode_value
from nimble_coder.gateway.service import Service

INTEGERS: dict[str, tuple[str, int]] = {
    "INT32": ("<i", 4),
    "UINT32": ("<I", 4),
    "INT64": ("<q", 8),
    "UINT64": ("<Q", 8),
}
Values = dict[str, list[Any]]
ENGINE_MODELS = (ENGINE_MODEL, PLAIN_MODEL)
GENERATING_TEXT = ("ensemble", "tensorrt_llm_bls")
TEXTS = {
    **dict.fromkeys(GENERATING_TEXT, ("text_input", "stop_words", "bad_words")),
    "preprocessing": ("QUERY", "STOP_WORDS_DICT", "BAD_WORDS_DICT"),
}
"""What a model tokenises in the one process that it has for all requests, the prompt first."""
REQUIRED = {
    **dict.fromkeys(GENERATING_TEXT, ("text_input", "max_tokens")),
    "preprocessing": ("QUERY", "REQUEST_OUTPUT_LEN"),
}
"""What these models cannot do without. Triton (2.51) only counts the inputs: where another one makes up for it, the
ensemble answers nothing, and the others fail."""
WORDS = ("stop_words_list", "bad_words_list")
"""What the one thread that decodes for all requests reads."""
TOKENS = "TOKENS_BATCH"
"""What `postprocessing` makes text of, in the one process that it has."""
PROMPTS = ("input_ids", "text_input")
COPIES = "num_return_sequences"
GUIDES = ("guided_decoding_guide_type", "guided_decoding_guide")
WANTED = {
    *(*PROMPTS, *GUIDES, "input_lengths", COPIES, TOKENS, *WORDS, *LOOKAHEAD),
    *(name for names in (*TEXTS.values(), *REQUIRED.values()) for name in names),
}
SHARED_MEMORY, CLASSES = "shared_memory", "classification"
"""Of an input's or output's parameters: how those begin that name a place in memory, and the one that asks for the
largest of an output's values. Triton (2.51) ends where an output has none to compare, and no model here has classes."""
HEADER_LENGTH = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True)
class CheckedBody:
    """A body over HTTP as it may be passed on."""

    content: bytes
    """The values that were checked, written anew: of two with the same key Triton would read the first, and what is
    checked is the last. Binary data follows them as it came."""
    header_length: int | None
    """Bytes of JSON in it, where binary data may follow."""
    generations: int
    """How many it asks for."""


class KServeGuard:
    """What `nimble_coder.gateway.access.limits` checks, for requests that are passed on instead of built here."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reads_before_prompt = service.profile.reads_before_prompt
        """TensorRT-LLM 0.19 does, where the prompt is shorter than N - 1; the portable engine does not."""

    def check_http(self, model: str, verb: str, body: bytes, header_length: str | None, client: str) -> CheckedBody:
        """Checks the body of `infer`, `generate` or `generate_stream`; raises `ApiError`. The last, the only one that
        comes here for a model that generates, gets what `check_grpc` would add."""
        content, binary = split_body(body, header_length)
        content = content if verb == "infer" else fields_of(content)
        check_parameters(content)
        check_parameters(content.get("parameters") or {})
        if verb == "infer":
            values, rows = read_infer(content, binary)
        else:
            values, rows = {name: flat(content[name]) for name in WANTED if name in content}, 1
        is_stop = model in ENGINE_MODELS and content.get("stop") is True
        length = None if is_stop else self.check(model, values, rows)
        generations = 0 if is_stop else generations_of(values, rows)
        if length is not None and (chosen := self._service.drafting.choose_lookahead(None, length, generations)):
            content |= dict(zip(LOOKAHEAD, astuple(chosen), strict=True))
        if self._takes_owner(model):  # what is no input is a parameter there
            content[OWNER] = client
        written = msgspec.json.encode(content)
        return CheckedBody(written + binary, None if header_length is None else len(written), generations)

    def check_grpc(self, request: service_pb2.ModelInferRequest, client: str) -> int:
        """Checks a client's request, counts its generations, adds whose it is and, where it names no (w,n,g), the
        policy's, or the plain one for a short prompt; raises `ApiError`."""
        check_parameters(request.parameters)
        raw = list(request.raw_input_contents)
        values: Values = {}
        rows = 1
        for index, tensor in enumerate(request.inputs):
            check_tensor("input", tensor.name, tensor.parameters)
            if tensor.name in WANTED:
                content = raw[index] if index < len(raw) else None
                values[tensor.name] = read_grpc(tensor, content)
            if tensor.name in PROMPTS:
                rows = rows_of(tensor.shape)
        for output in request.outputs:
            check_tensor("output", output.name, output.parameters)
        is_stop = stops(request)
        # A stop reaches its own key's requests; where there are no keys, all are one client.
        if self._takes_owner(request.model_name) and (self._service.keys.required or not is_stop):
            request.parameters[OWNER].string_param = client
        if is_stop:
            return 0
        length = self.check(request.model_name, values, rows)
        generations = generations_of(values, rows)
        if length is not None and (chosen := self._service.drafting.choose_lookahead(None, length, generations)):
            for name, value in zip(LOOKAHEAD, astuple(chosen), strict=True):
                added = request.inputs.add(name=name, datatype="INT32", shape=[rows, 1])
                if raw:
                    request.raw_input_contents.append(struct.pack("<i", value) * rows)
                else:
                    added.contents.int_contents.extend([value] * rows)
        return generations

    def check(self, model: str, values: Values, rows: int) -> int | None:
        """Raises `ApiError`; returns the shortest prompt's length in tokens where no (w,n,g) is asked for."""
        if not self._service.profile.is_portable and (given_guide := next((n for n in GUIDES if values.get(n)), None)):
            # What xgrammar throws at ends every request of the step, and only the gateway's own guides are known.
            raise ApiError(400, f"{given_guide} is the gateway's own: ask /v1 for a form", "unsupported", given_guide)
        self._check_texts(model, values)
        self._check_ids(model, values)
        if model not in ENGINE_MODELS or "input_ids" not in values:
            return None  # Triton refuses a generation without ids itself; `stop` requests have none
        limits = self._service.limits
        shortest, longest = lengths_of(values, rows)
        limits.check_prompt(shortest)
        limits.check_prompt(longest)
        if model == PLAIN_MODEL:
            return None  # an engine without lookahead refuses any (w,n,g) itself
        given = [values[name] for name in LOOKAHEAD if name in values]
        if not given:
            return shortest
        if len(given) < len(LOOKAHEAD) or not all(given):
            text = f"send all of {', '.join(LOOKAHEAD)}, or none of them"
            raise ApiError(400, text, "incomplete_lookahead", "lookahead")
        for row in zip(*given, strict=False):
            try:
                asked = LookaheadConfig(*(int(value) for value in row))
            except (LookaheadError, TypeError, ValueError) as error:
                raise ApiError(400, str(error), "invalid_lookahead", "lookahead") from None
            limits.choose_lookahead(asked, shortest)
        return None

    def _takes_owner(self, model: str) -> bool:
        """Whether the engine behind a model lets clients take turns: the portable one does."""
        return self._service.profile.is_portable and model in (*ENGINE_MODELS, *GENERATING_TEXT)

    def _check_texts(self, model: str, values: Values) -> None:
        limits, names = self._service.limits, TEXTS.get(model, ())
        for name in names[:1]:
            for length in self._lengths(name, values):
                # `preprocessing` alone generates nothing: a text without tokens harms nobody there.
                limits.check_prompt(length if model in GENERATING_TEXT else max(length, 1))
                if model in GENERATING_TEXT:
                    self._check_reading(length)
        for name in names[1:]:
            length = sum(self._lengths(name, values))
            if length > limits.longest_prompt:
                text = f"{name} has {length} tokens, at most {limits.longest_prompt} are taken: send fewer"
                raise ApiError(400, text, "invalid_input", name)
        if missing := next((name for name in REQUIRED.get(model, ()) if name not in values), None):
            raise ApiError(400, f"{missing} is missing: send it", "invalid_input", missing)

    def _check_ids(self, model: str, values: Values) -> None:
        limits = self._service.limits
        most = dict.fromkeys(WORDS, limits.longest_prompt) if model in ENGINE_MODELS else {}
        if model == "postprocessing":
            most = {TOKENS: limits.max_batch_size * limits.max_seq_len}
        for name, count in most.items():
            # A word list has the words' ends in a second row below their ids.
            length = len(values.get(name, ())) // (2 if name in WORDS else 1)
            if length > count:
                text = f"{name} has {length} tokens, at most {count} are taken: send fewer"
                raise ApiError(400, text, "invalid_input", name)

    def _lengths(self, name: str, values: Values) -> Iterator[int]:
        """The tokens of each text of an input; raises `ApiError` for what is no text."""
        encoder = self._service.encoder
        for text in values.get(name, ()):
            if not isinstance(text, str):
                raise ApiError(400, f"{name} is not text", "invalid_prompt", name)
            yield len(encoder.encode(encoder.split(text)))

    def _check_reading(self, length: int) -> None:
        needed = self._service.limits.lookahead.ngram_size - 1
        if self._reads_before_prompt and length < needed:
            why = f"the prompt has {length} tokens, this engine needs {needed}: "
            raise ApiError(400, why + "use /v1/completions, or tensorrt_llm", "prompt_shorter_than_ngram")


def stops(request: service_pb2.ModelInferRequest) -> bool:
    """Whether it generates nothing, but ends the running request of the same id: that must work in a full service."""
    raw = request.raw_input_contents
    for index, tensor in enumerate(request.inputs):
        if tensor.name == "stop" and request.model_name in ENGINE_MODELS:
            content = raw[index] if index < len(raw) else bytes(tensor.contents.bool_contents)
            return content[:1] not in (b"", b"\0")
    return False


def split_body(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """A body's JSON object and the binary data behind it; raises `ApiError`."""
    if header_length is not None and not HEADER_LENGTH.fullmatch(header_length):
        raise ApiError(400, "Inference-Header-Content-Length is not a number", "invalid_header")
    size = len(body) if header_length is None else int(header_length)
    fields = decode_fields(body[:size].removeprefix(BOM_UTF8))
    content = {name: decode_value(name, value) for name, value in fields.items()}
    if not isinstance(content.get("parameters"), dict | None):
        raise ApiError(400, "parameters is no object: send one of values by name", "invalid_input", "parameters")
    return content, body[size:]


def fields_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `generate` body, those in its `parameters` like those beside them, as in Triton; raises
    `ApiError` for one that stands in both places."""
    inner = {name: value for name, value in (content.get("parameters") or {}).items() if value is not None}
    if twice := next((name for name in inner if content.get(name) is not None), None):
        text = f"{twice[:40]!r} stands in parameters and beside them: send it once"
        raise ApiError(400, text, "invalid_input", twice[:40])
    return {name: value for name, value in content.items() if name != "parameters"} | inner


def lengths_of(values: Mapping[str, list[Any]], rows: int) -> tuple[int, int]:
    """The shortest and the longest prompt of a batch, in tokens: what is stated, and never more than a row has ids."""
    ids = len(values["input_ids"])
    if rows < 1 or ids % rows:
        raise ApiError(400, f"input_ids has {ids} tokens, which are no {rows} rows", "invalid_input", "input_ids")
    width = ids // rows
    lengths = values.get("input_lengths") or [width]
    if not all(isinstance(length, int) for length in lengths):
        raise ApiError(400, "input_lengths holds something that is no whole number", "invalid_input", "input_lengths")
    if max(lengths) > width:
        text = f"input_lengths is {max(lengths)}, but input_ids has {width} tokens"
        raise ApiError(400, text + (" a row" if rows > 1 else ""), "invalid_input", "input_lengths")
    return min(lengths), max(lengths)


def generations_of(values: Mapping[str, list[Any]], rows: int) -> int:
    """How many a request asks for: as many of each row as `num_return_sequences` says, which the engine checks."""
    copies = [value for value in values.get(COPIES, []) if isinstance(value, int)]
    return max(rows, 1) * max([1, *copies])


def rows_of(shape: Any) -> int:
    """The batch size that the shape of the prompts states; Triton refuses any but one of two whole numbers."""
    return shape[0] if len(shape) == 2 and isinstance(shape[0], int) else 1


def flat(value: Any) -> list[Any]:
    """The elements of nested lists, in order."""
    if not isinstance(value, list):
        return [value]
    found, stack = [], [iter(value)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            found.append(item)
        else:
            stack.pop()
    return found


def read_infer(content: Mapping[str, Any], binary: bytes) -> tuple[Values, int]:
    """The inputs of an `infer` body, JSON data or binary data behind it in the order of the inputs; and the rows."""
    check_outputs(content)
    inputs = content.get("inputs")
    if not isinstance(inputs, list):
        raise ApiError(400, "inputs is missing: send a list of tensors", "invalid_input", "inputs")
    values: Values = {}
    place, rows = 0, 1
    for tensor in inputs:
        if not isinstance(tensor, dict):
            raise ApiError(400, "inputs holds something that is no tensor", "invalid_input", "inputs")
        name, parameters = tensor.get("name"), parameters_of("input", tensor)
        size = parameters.get("binary_data_size")
        part = b""
        if isinstance(size, int) and size >= 0:
            part, place = binary[place : place + size], place + size
        if name in PROMPTS and isinstance(shape := tensor.get("shape"), list):
            rows = rows_of(shape)
        if name in WANTED:
            values[name] = (
                unpack(str(tensor.get("datatype")), part) if size is not None else flat(tensor.get("data", []))
            )
    return values, rows


def check_outputs(content: Mapping[str, Any]) -> None:
    """Raises `ApiError` where a wanted output is no tensor, or to be written where nobody can look."""
    outputs = content.get("outputs", [])
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise ApiError(400, "outputs is no list of tensors", "invalid_input", "outputs")
    for output in outputs:
        parameters_of("output", output)


def parameters_of(kind: str, tensor: Mapping[str, Any]) -> dict[str, Any]:
    """An input's or output's parameters in JSON; raises `ApiError` as `check_tensor` does."""
    parameters = tensor.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ApiError(400, f"the parameters of one of the {kind}s are no object", "invalid_input", f"{kind}s")
    check_tensor(kind, str(tensor.get("name")), parameters)
    return parameters


def check_tensor(kind: str, name: str, parameters: Iterable[str]) -> None:
    """Raises `ApiError` where an input or output has a parameter that could harm others: shared memory, into which
    nobody here can look, and classes."""
    for parameter in parameters:
        if parameter.startswith(SHARED_MEMORY):
            remedy = "send its content" if kind == "input" else "take its content from the answer"
            raise ApiError(400, f"{kind} {name[:40]!r} is in shared memory: {remedy}", "shared_memory")
        if parameter == CLASSES:
            raise ApiError(400, f"{CLASSES} is not available: this model has no classes", "unsupported", f"{kind}s")


def read_grpc(tensor: Any, raw: bytes | None) -> list[Any]:
    """The elements of a gRPC tensor, raw or typed."""
    if raw is not None:
        return unpack(tensor.datatype, raw)
    c = tensor.contents
    texts = [value.decode("utf-8", "replace") for value in c.bytes_contents]
    return [*c.int_contents, *c.int64_contents, *c.uint_contents, *c.uint64_contents, *texts]


def unpack(datatype: str, raw: bytes) -> list[Any]:
    """Elements of a raw tensor, little-endian; texts are prefixed by their length in 4 bytes."""
    if datatype == "BYTES":
        return list(unpack_texts(raw))
    try:
        code, size = INTEGERS[datatype]
        unpacker: Callable[..., Any] = struct.iter_unpack
        return [value for (value,) in unpacker(code, raw[: len(raw) - len(raw) % size])]
    except KeyError:
        raise ApiError(400, f"datatype {datatype[:20]!r} is not the input's", "invalid_input") from None


def unpack_texts(raw: bytes) -> list[str]:
    """Triton's BYTES elements; raises `ApiError` where lengths and content differ."""
    texts, place = [], 0
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 4], "little")
        place += 4 + size
        if place > len(raw):
            raise ApiError(400, "a BYTES tensor is shorter than its lengths say", "invalid_input")
        texts.append(raw[place - size : place].decode("utf-8", "replace"))
    return texts


def check_parameters(names: Container[str]) -> None:
    """Raises `ApiError` for a request parameter that the gateway alone may send."""
    for own in (CALL, DRAFT_POOL, OWNER):
        if own in names:
            raise ApiError(400, f"{own} is the gateway's own: leave it out", "unsupported", own)
