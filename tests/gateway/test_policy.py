"""The gateway goes by the policy: the (w,n,g) follows the load, the text does not change."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from build_engine.artifact import Artifact
from build_engine.lookahead import LookaheadConfig
from nimble_coder.client.grpc import CompletionClient, tensors
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.gateway.policy import Level, Table, write_policy
from nimble_coder.processes.gateway import GatewayError, GatewayProcesses
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses
from nimble_coder.text.tokenizer import TextTokenizer

PROMPT = "import os\nimport sys\n\ndef main(argv):\n    "
ASKED = {"prompt": PROMPT, "max_tokens": 48}
ENDLESS = {"prompt": PROMPT, "max_tokens": 6000, "ignore_eos": True, "stream": True, "lookahead": False}
LEVELS = [
    Level(load=1, lookahead=(4, 5, 4)),
    Level(load=2, lookahead=(1, 3, 2)),
    Level(load=3, lookahead=(1, 1, 0)),
    Level(load=4, lookahead=None),
]


@pytest.fixture(scope="module")
def tuned(artifact: Artifact, gateway: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcesses]:
    """A gateway with a policy, over the shared Triton and its real engine."""
    work = tmp_path_factory.mktemp("tuned")
    write_policy(work / "policy.yaml", Table(levels=LEVELS))
    settings = {"NIMBLE_POLICY": str(work / "policy.yaml")}
    triton = gateway.triton.addresses
    with GatewayProcesses(artifact.directory, triton, Addresses.free(), log=work / "log", settings=settings) as g:
        g.wait_ready()
        yield g


@pytest.fixture
def http(tuned: GatewayProcesses) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tuned.addresses.http, timeout=60) as client:
        yield client


def hold(http: httpx.Client, busy: ExitStack) -> None:
    """One more generation in flight, until the stack is left."""
    parts = busy.enter_context(http.stream("POST", "/v1/completions", json=ENDLESS)).iter_raw()
    assert next(parts)
    busy.callback(parts.close)  # type: ignore[attr-defined] # httpx hangs up as soon as the iterator is gone


def test_the_choice_follows_the_load_and_the_text_stays_the_same(http: httpx.Client) -> None:
    plainly = http.post("/v1/completions", json={**ASKED, "lookahead": False})
    expected = plainly.json()["choices"][0]["text"]
    assert plainly.headers["x-nimble-lookahead"] == "1,1,0"
    drafts, drafting = [], []
    with ExitStack() as busy:
        for lookahead in ("4,5,4", "1,3,2", "1,1,0", "1,1,0"):
            answer = http.post("/v1/completions", json=ASKED)
            assert answer.headers["x-nimble-lookahead"] == lookahead
            assert answer.json()["choices"][0]["text"] == expected
            details = answer.json()["usage"]["completion_tokens_details"]
            drafting.append(answer.headers["x-nimble-drafting"])
            drafts.append(details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"])
            hold(http, busy)
    assert drafts[0] > drafts[1] > 0
    assert drafts[2] == 0
    assert drafting == ["lookahead", "lookahead", "none", "suffixes"]


def test_answers_that_are_asked_for_together_count_together(http: httpx.Client) -> None:
    for copies, lookahead in ((1, "4,5,4"), (2, "1,3,2"), (3, "1,1,0")):
        with http.stream("POST", "/v1/completions", json={**ASKED, "n": copies, "stream": True}) as stream:
            assert stream.headers["x-nimble-lookahead"] == lookahead
            stream.read()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/infill", "/v1/fim/completions"])
def test_a_requests_own_lookahead_wins(http: httpx.Client, path: str) -> None:
    body = {**ASKED, "suffix": "\n", "messages": [{"role": "user", "content": "x"}], "input_prefix": PROMPT}
    if path.endswith("/chat/completions"):
        del body["prompt"]  # which is refused there
    assert http.post(path, json=body).headers["x-nimble-lookahead"] == "4,5,4"
    assert http.post(path, json={**body, "lookahead": [8, 8, 8]}).headers["x-nimble-lookahead"] == "8,8,8"


def test_short_prompts_are_decoded_plainly_and_sampling_is_drafted(http: httpx.Client) -> None:
    short, longer = ({"prompt": [300] * length, "max_tokens": 2} for length in (3, 4))
    assert http.post("/v1/completions", json=short).headers["x-nimble-lookahead"] == "1,1,0"
    assert http.post("/v1/completions", json=longer).headers["x-nimble-lookahead"] == "4,5,4"
    assert http.post("/v1/completions", json={**ASKED, "temperature": 1}).headers["x-nimble-lookahead"] == "4,5,4"


def test_grpc_requests_get_it_too(tuned: GatewayProcesses, http: httpx.Client) -> None:
    with CompletionClient(tuned.addresses.grpc) as client, ExitStack() as busy:
        alone = client.complete(PROMPT, 48)
        hold(http, busy)
        hold(http, busy)
        crowded = client.complete(PROMPT, 48)
        own = client.complete(PROMPT, 48, LookaheadConfig(4, 5, 4))
    assert (alone.draft_tokens > 0, crowded.draft_tokens, own.draft_tokens > 0) == (True, 0, True)
    assert alone.text == crowded.text == own.text


def test_streams_over_http_get_it_too(http: httpx.Client, tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(PROMPT)
    body = {"input_ids": ids, "input_lengths": len(ids), "request_output_len": 48, "streaming": True}

    def drafts() -> int:
        answer = http.post("/v2/models/tensorrt_llm/generate_stream", json={**body, "return_perf_metrics": True})
        return sum(map(int, re.findall(r'"total_draft_tokens":(\d+)', answer.text)))

    with ExitStack() as busy:
        alone = drafts()
        hold(http, busy)
        hold(http, busy)
        assert (alone > 0, drafts()) == (True, 0)


def test_a_batch_of_prompts_in_one_grpc_request_gets_a_row_each(tuned: GatewayProcesses) -> None:
    answers: list[object] = []
    with triton_grpc.InferenceServerClient(tuned.addresses.grpc) as client:
        client.start_stream(lambda result, error: answers.append(error or result))
        sizes = {"input_lengths": 8, "request_output_len": 2}
        arrays = {name: np.array([[value], [value]], np.int32) for name, value in sizes.items()}
        client.async_stream_infer("tensorrt_llm", tensors({"input_ids": np.full((2, 8), 300, np.int32), **arrays}))
        client.stop_stream()
    assert answers
    assert not any(isinstance(answer, Exception) for answer in answers), answers


def test_without_a_policy_the_portable_engine_matches_suffixes(gateway: Serving) -> None:
    answer = httpx.post(f"{gateway.addresses.http}/v1/completions", json=ASKED, timeout=60)
    names = ("drafting", "lookahead", "draft-tokens")
    assert [answer.headers[f"x-nimble-{name}"] for name in names] == ["suffixes", "1,1,0", str(MOST_DRAFTS)]


def test_a_policy_may_ask_for_what_a_request_may(narrow: Artifact, gateway: Serving, tmp_path: Path) -> None:
    write_policy(tmp_path / "policy.yaml", Table(levels=[Level(load=1, lookahead=(4, 3, 4))]))
    settings, log = {"NIMBLE_POLICY": str(tmp_path / "policy.yaml")}, tmp_path / "log"
    triton = gateway.triton.addresses
    with GatewayProcesses(narrow.directory, triton, Addresses.free(), log=log, settings=settings) as gateways:
        gateways.wait_ready()
        url = f"{gateways.addresses.http}/v1/completions"
        chosen = httpx.post(url, json=ASKED, timeout=60)
        asked = httpx.post(url, json={**ASKED, "lookahead": [8, 8, 8]}, timeout=60)
    assert [each.headers["x-nimble-lookahead"] for each in (chosen, asked)] == ["4,3,4", "8,8,8"]


def test_a_policy_beyond_the_engine_ends_the_gateway_with_one_line(
    artifact: Artifact, gateway: Serving, tmp_path: Path
) -> None:
    write_policy(tmp_path / "policy.yaml", Table(levels=[Level(load=1, lookahead=(9, 9, 9))]))
    settings, log = {"NIMBLE_POLICY": str(tmp_path / "policy.yaml")}, tmp_path / "log"
    triton = gateway.triton.addresses
    gateways = GatewayProcesses(artifact.directory, triton, Addresses.free(), log=log, settings=settings)
    with pytest.raises(GatewayError), gateways:
        gateways.wait_ready()
    assert "exceeds the engine's (8,8,8)" in log.read_text().splitlines()[-1]
