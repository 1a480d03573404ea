"""Sampling beside lookahead: two engines behind one repository, the first of which decodes greedily, as TensorRT's."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from build_engine.artifact import ENGINE, PLAIN_ENGINE, Artifact
from build_engine.manifest import NAME, record_files
from nimble_coder.processes import triton_installation as installation
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import running_service
from tests.standin.machine import Machine

BACKEND = """
import json
from dataclasses import replace

from backends.tensorrtllm import model
from nimble_coder.engine.torch_engine import TorchEngine


class Greedy(TorchEngine):
    def enqueue(self, request):
        return super().enqueue(replace(request, sampling=None))


class TritonPythonModel(model.TritonPythonModel):
    def initialize(self, args):
        config = json.loads(args["model_config"])
        if args["model_name"] == "tensorrt_llm":
            model.TorchEngine = Greedy
        else:  # the portable engine has no plain form; what is sampled decodes plainly
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
