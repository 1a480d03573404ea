"""What a benchmark cannot measure is told by its parser, before anything is built or started."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from nimble_coder import bench

BENCHMARKS = Path(bench.__file__).parent


def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], benchmark: str, arguments: list[str]
) -> str:
    """The last line of what it says."""
    monkeypatch.setattr(sys, "argv", [benchmark, *arguments])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"nimble_coder.bench.{benchmark}").main()
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("benchmark", "arguments", "message"),
    [
        ("step", ["--threads", "0"], "--threads: 0 is not above zero"),
        ("step", ["--threads", "-1"], "--threads: '-1' is not a whole number"),
        ("step", ["--threads", "100000"], "--threads: 100000 is more than the "),
        ("lookahead", ["--threads", "100000"], "--threads: 100000 is more than the "),
        ("step", ["--rounds", "0"], "--rounds: 0 is not above zero"),
        ("step", ["--cached", "-1"], "--cached: '-1' is not a whole number, zero or more"),
        ("step", ["--device", "tpu"], "--device: invalid choice: 'tpu'"),
        ("gateway", ["--streams", "4", "0"], "--streams: 0 is not above zero"),
        ("lookahead", ["--rounds", "1.5"], "--rounds: '1.5' is not a whole number"),
        ("lookahead", ["--model", "/nowhere"], "--model: /nowhere is not a directory"),
        ("lookahead", ["--temperature", "-1"], "temperature is -1.0, which is out of range"),
        ("lookahead", ["--configs", "draft:-1"], "N is 0 to 32"),
        ("perplexity", ["--model", "/etc"], "--model: /etc lacks config.json"),
        ("service", ["--warm-up", "-1"], "--warm-up: '-1' is not a whole number, zero or more"),
        ("service", ["--rate", "many"], "--rate: 'many' is not a number above zero"),
        ("service", ["--drafting", "draft:33"], "N is 0 to 32"),
        ("service", ["--drafting", "plain", "plain"], "two different configurations are compared"),
        ("service", ["--json", "/nowhere/run.json"], "--json: /nowhere/run.json cannot be written"),
        ("service", ["--json", "/etc"], "--json: /etc cannot be written: Is a directory"),
        ("service", ["--plot", "/etc/passwd"], "--plot: /etc/passwd cannot be written"),
        ("humaneval_judge", ["/nowhere.json"], "/nowhere.json is no file"),
        ("gpu", ["--dry-run", "--only", "speed"], "there is no section speed: choose of ceilings"),
    ],
)
def test_what_cannot_be_measured_is_told_by_the_parser(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    benchmark: str,
    arguments: list[str],
    message: str,
) -> None:
    assert message in refusal(monkeypatch, capsys, benchmark, arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("benchmark", ["ceilings", "lookahead", "step"])
def test_a_gpu_that_is_not_here_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], benchmark: str
) -> None:
    assert "PyTorch finds no GPU here" in refusal(monkeypatch, capsys, benchmark, ["--device", "cuda"])


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("*.py")), ids=lambda file: file.stem)
def test_no_benchmark_takes_any_whole_number(file: Path) -> None:
    assert "type=int" not in file.read_text(encoding="utf-8")


def test_to_try_a_file_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    refusal(monkeypatch, capsys, "service", ["--json", str(tmp_path / "run.json"), "--rounds", "0"])
    assert not list(tmp_path.iterdir())


def test_the_cache_is_the_environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    portable = importlib.import_module("nimble_coder.bench.portable")
    monkeypatch.setattr(sys, "argv", ["portable"])
    monkeypatch.setenv("NIMBLE_CACHE_PATH", str(tmp_path))
    monkeypatch.setattr(portable, "Cache", stop_at)
    with pytest.raises(StoppedError, match=str(tmp_path)):
        portable.main()


class StoppedError(Exception):
    """Before anything is built."""


def stop_at(place: Path) -> None:
    raise StoppedError(place)
