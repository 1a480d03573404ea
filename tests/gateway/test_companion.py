"""Sampling and forms beside lookahead: two engines, the first greedy and unguided as TensorRT's is with lookahead."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from build_engine.artifact import ENGINE, PLAIN_ENGINE, TOKENIZER, Artifact
from build_engine.guide_tokens import write_guide_tokens
from build_engine.manifest import NAME, record_files
from nimble_coder.gateway.answers.calling import Calling
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.service import check_strict
from nimble_coder.processes import triton_installation as installation
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import running_service
from tests.standin.machine import Machine

BACKEND = """
import json
from dataclasses import replace

from backends.tensorrtllm import model
from nimble_coder.contract.request import RequestError
from nimble_coder.engine.torch_engine import TorchEngine


class Greedy(TorchEngine):
    def enqueue(self, request):
        assert request.guide is None
        return super().enqueue(replace(request, sampling=None))

    def prepare(self, guide):
        raise RequestError("guided decoding is not supported by this engine")


class Guided(TorchEngine):
    def prepare(self, guide):
        if guide.type.value not in ("json", "json_schema", "regex", "ebnf_grammar"):
            raise RequestError("guided_decoding_guide_type is not the contract's")
        super().prepare(guide)


class TritonPythonModel(model.TritonPythonModel):
    def initialize(self, args):
        config = json.loads(args["model_config"])
        if args["model_name"] == "tensorrt_llm":
            model.TorchEngine = Greedy
            assert not config["parameters"]["guided_decoding_backend"]["string_value"]
        else:  # the portable engine has no plain form; what is sampled decodes plainly
            model.TorchEngine = Guided
            assert config["parameters"]["guided_decoding_backend"]["string_value"] == "xgrammar"
            with open(config["parameters"]["xgrammar_tokenizer_info_path"]["string_value"]) as info:
                assert set(json.load(info)) == {"encoded_vocab", "tokenizer_str", "stop_token_ids"}
            for part in ("window_size", "ngram_size", "verification_set_size"):
                assert f"lookahead_{part}" not in config["parameters"]
                config["parameters"][f"lookahead_{part}"] = {"string_value": "8"}
        super().initialize({**args, "model_config": json.dumps(config)})
"""
ASKED = {"prompt": "def add(first, second):\n    ", "max_tokens": 24}
SAMPLED = {**ASKED, "temperature": 1.5, "seed": 1}


@pytest.fixture
def pair(artifact: Artifact, h100: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """The embedded model's engine twice, in an artefact that says to be TensorRT's with a companion."""
    directory = tmp_path / "artifact"
    shutil.copytree(artifact.directory, directory)
    shutil.copytree(directory / ENGINE, directory / PLAIN_ENGINE)
    (directory / NAME).unlink()
    write_guide_tokens(directory / TOKENIZER)
    profile = replace(artifact.manifest.profile, engine="tensorrt", gpu="h100", precision="bf16", max_num_tokens=8192)
    manifest = replace(artifact.manifest, profile=profile, engine_version="0.19.0", files=record_files(directory))
    manifest.write(directory)
    (tmp_path / "backends" / "tensorrtllm").mkdir(parents=True)
    (tmp_path / "backends" / "tensorrtllm" / "model.py").write_text(BACKEND)
    monkeypatch.setattr(installation, "BACKENDS", tmp_path / "backends")
    with running_service(directory, tmp_path / "serving.log", NIMBLE_STRICT_SAMPLING="true") as serving:
        yield serving


def asked_of(serving: Serving, model: str) -> int:
    """The requests that a model has answered."""
    (statistics,) = httpx.get(f"{serving.triton.addresses.http}/v2/models/{model}/stats").json()["model_stats"]
    return int(statistics["inference_stats"]["success"]["count"])


def test_what_samples_is_decoded_by_the_companion_and_all_else_with_lookahead(pair: Serving) -> None:
    def complete(route: str, **fields: Any) -> tuple[str, str, str, int]:
        before = asked_of(pair, "tensorrt_llm_plain")
        answer = httpx.post(f"{pair.addresses.http}/v1/{route}", json=fields, timeout=60)
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0].get("text", "")
        heads = answer.headers["x-nimble-decoding"], answer.headers["x-nimble-lookahead"]
        return text, *heads, asked_of(pair, "tensorrt_llm_plain") - before

    greedy = complete("completions", **ASKED)
    assert greedy[1:] == ("greedy", "8,8,8", 0)
    first, again, other = (complete("completions", **SAMPLED | {"seed": seed}) for seed in (1, 1, 2))
    assert first[1:] == ("sampling", "1,1,0", 1)
    assert first == again
    assert len({greedy[0], first[0], other[0]}) == 3
    for more in ({"lookahead": [4, 3, 4]}, {"n": 2}):
        assert complete("completions", **SAMPLED, **more)[1:] == ("sampling", "1,1,0", more.get("n", 1))
    assert complete("completions", **ASKED, frequency_penalty=1.0)[1:] == ("greedy", "1,1,0", 1)
    assert complete("completions", **ASKED, temperature=0, top_p=0.9, lookahead=[4, 3, 4])[1:] == ("greedy", "4,3,4", 0)
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0.7}
    assert complete("chat/completions", **chat)[1:] == ("sampling", "1,1,0", 1)


def test_the_memory_of_the_caches_is_split_by_computation(pair: Serving) -> None:
    tokens = [
        next(line for line in config.read_text().splitlines() if "max_tokens_in_paged_kv_cache" in line)
        for config in sorted(pair.triton.repository.glob("tensorrt_llm*/config.pbtxt"))
        if config.parent.name != "tensorrt_llm_bls"
    ]
    assert len(tokens) == 2
    assert len(set(tokens)) == 1


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "count": {"type": ["integer", "null"], "minimum": 0, "maximum": 99},
        "kinds": {"type": "array", "items": {"enum": ["a", "größe"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "count", "kinds"],
    "additionalProperties": False,
}
STRICT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "say something"}], "max_tokens": 200}


def is_thing(text: str) -> bool:
    return bool(Draft202012Validator(SCHEMA).is_valid(json.loads(text)))


CHOICE = ["yes", 'no, "never"', "名前"]
FORMS: dict[str, tuple[dict[str, Any], Any]] = {
    "strict": ({"response_format": STRICT}, is_thing),
    "json_object": ({"response_format": {"type": "json_object"}}, lambda text: text.startswith("{")),
    "guided_json": ({"guided_json": SCHEMA}, is_thing),
    "regex": ({"guided_regex": r"(?:[a-f]{3})-\d{2}"}, re.compile("[a-f]{3}-[0-9]{2}").fullmatch),
    "choice": ({"structured_outputs": {"choice": CHOICE}}, CHOICE.__contains__),
    "nvext": ({"nvext": {"guided_json": SCHEMA}}, is_thing),
    "to the end": ({"guided_json": SCHEMA, "ignore_eos": True, "min_tokens": 190}, is_thing),
    "sampled": ({"guided_json": SCHEMA, "temperature": 1.0, "seed": 3}, is_thing),
    "beside tools": ({"guided_json": SCHEMA, "tools": [{"type": "function", "function": {"name": "now"}}]}, is_thing),
}
UNAVAILABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a keyword": ({"guided_json": {"type": "string", "pattern": "a"}}, "guided_json is not available: .*'pattern'"),
    "a grammar": ({"guided_grammar": 'root ::= "a"'}, "guided_grammar is not available: .*no grammar"),
    "Lark": ({"grammar": 'start: "a"'}, "grammar is not available: .*no grammar"),
    "a regex": ({"guided_regex": "(a"}, "guided_regex is not available"),
    "bad words": ({"guided_regex": "a", "bad_words": ["a"]}, "bad_words is not available"),
    "two forms": ({"guided_regex": "a", "guided_choice": ["a"]}, "send one of them"),
}


def test_forms_are_held_to_by_the_companion(pair: Serving) -> None:
    with httpx.Client(base_url=pair.addresses.http, timeout=60) as http:
        for name, (fields, has_form) in FORMS.items():
            before = asked_of(pair, "tensorrt_llm_plain")
            answer = http.post("/v1/chat/completions", json={**CHAT, **fields})
            assert answer.status_code == 200, (name, answer.text)
            choice = answer.json()["choices"][0]
            assert choice["finish_reason"] == "stop" or name == "json_object", name
            assert has_form(choice["message"]["content"]), (name, answer.text)
            assert answer.headers["x-nimble-lookahead"] == "1,1,0"
            assert asked_of(pair, "tensorrt_llm_plain") == before + 1
        for name, (fields, told) in UNAVAILABLE.items():
            answer = http.post("/v1/chat/completions", json={**CHAT, **fields})
            assert answer.status_code == 400, (name, answer.text)
            assert re.search(told, answer.json()["error"]["message"]), (name, answer.text)
        asked = {"text_input": "a", "max_tokens": 2, "guided_decoding_guide_type": "json"}
        refused = http.post("/v2/models/ensemble/generate", json=asked)
        assert (refused.status_code, "ask /v1 for a form" in refused.text) == (400, True)


def test_a_demanded_call_is_held_to_by_the_companion(pair: Serving) -> None:
    store = {"type": "function", "function": {"name": "store", "parameters": SCHEMA, "strict": True}}
    odd = {"name": "now", "parameters": {"type": "object", "not": {}}}
    now = {"type": "function", "function": odd}
    with httpx.Client(base_url=pair.addresses.http, timeout=60) as http:
        for tools in ([store], [store, now]):
            for seed in range(3):
                fields = {"tools": tools, "tool_choice": "required", "temperature": 1.0, "seed": seed}
                answer = http.post("/v1/chat/completions", json={**CHAT, **fields})
                assert answer.status_code == 200, answer.text
                (choice,) = answer.json()["choices"]
                (call,) = choice["message"]["tool_calls"]
                if choice["finish_reason"] != "length":
                    assert choice["finish_reason"] == "tool_calls"
                    name, arguments = call["function"]["name"], call["function"]["arguments"]
                    assert is_thing(arguments) if name == "store" else name == "now" and arguments[0] == "{"
        strict = {"type": "function", "function": {**odd, "strict": True}}
        refused = http.post("/v1/chat/completions", json={**CHAT, "tools": [strict], "tool_choice": "required"})
        assert (refused.status_code, "'not'" in refused.text) == (400, True)
        assert http.post("/v1/chat/completions", json={**CHAT, "tools": [strict]}).status_code == 200
        strict["function"] = {"name": "now", "parameters": {"type": "objekt"}, "strict": True}
        refused = http.post("/v1/chat/completions", json={**CHAT, "tools": [strict]})
        assert (refused.status_code, "parameters of" in refused.text) == (400, True)


def test_calls_of_a_strict_function_are_demanded_only_where_they_can_be_held() -> None:
    call = ("store", {"type": "object"}, True), ("now", None, False)
    for functions in (call[1:], ()):
        check_strict(Calling(demanded_functions=functions), is_guided=False)
    check_strict(Calling(demanded_functions=call), is_guided=True)
    with pytest.raises(ApiError, match=r"'store', which is strict.*--companion; or leave out strict") as caught:
        check_strict(Calling(demanded_functions=call), is_guided=False)
    assert (caught.value.status, caught.value.param) == (400, "tool_choice")
