"""`NIMBLE_DRAFTS_PATH`: what requests held before a restart drafts for those after it."""

import signal
import stat
from pathlib import Path

import httpx

from build_engine.artifact import Artifact
from tests.supervisor.conftest import Service, Start

TOKENS = 48
BODY = {"prompt": [300 + i * i % 41 for i in range(32)], "max_tokens": TOKENS, "temperature": 1.2, "seed": 5}


def ask(service: Service, key: str) -> str:
    done = httpx.post(
        f"{service.addresses.http}/v1/completions", json=BODY, headers={"Authorization": f"Bearer {key}"}, timeout=30
    )
    return str(done.raise_for_status().json()["choices"][0]["text"])


def total(service: Service, name: str, kind: str) -> float:
    """As the engine's metrics tell."""
    lines = httpx.get(service.addresses.metrics).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name) and f'="{kind}"' in line)


def accepted(service: Service) -> float:
    """Draft tokens of earlier requests that were right."""
    return total(service, "nimble_drafting_accepted", "pool")


def answered(service: Service) -> float:
    """Tokens of all answers."""
    return total(service, "nimble_lookahead_totals", "generated_tokens")


def test_a_restart_keeps_them_for_the_same_key_alone(start: Start, artifact: Artifact, tmp_path: Path) -> None:
    settings = {"NIMBLE_ARTIFACT": artifact.directory, "NIMBLE_API_KEYS": "first,second"}
    settings |= {"NIMBLE_DRAFTS_PATH": tmp_path / "state" / "drafts"}
    before = start(**settings)
    before.wait_ready()
    text = ask(before, "first")
    before.process.send_signal(signal.SIGTERM)
    assert before.process.wait(60) == 0

    (file,) = (tmp_path / "state" / "drafts").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"first" not in file.read_bytes()  # a key
    after = start(**settings)
    after.wait_ready()
    told = answered(after)
    assert ask(after, "second") == text
    after.wait_until(lambda: answered(after) >= told + TOKENS)
    assert accepted(after) == 0
    assert ask(after, "first") == text
    after.wait_until(lambda: accepted(after) > 0)
