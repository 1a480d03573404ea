"""Imports go one way, between files and between folders, so that each can be read without what stands above it."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.profiles import find_profile
from nimble_coder.engine.compiled import find_step
from tests.conftest import silent

ROOT = Path(__file__).parents[1]
PACKAGES = ("build_engine", "nimble_coder")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}
HEAVY = {"httpx", "huggingface_hub", "jinja2", "rich", "torch", "transformers"}
"""What a process that serves has no use for: seconds at its start, and memory."""


def imports(path: Path) -> set[str]:
    """The modules of this project that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in ("build_engine", "nimble_coder")
        ):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in FILES else node.module for name in names)
    return found


@cache
def edges() -> dict[str, set[str]]:
    """What each file imports."""
    return {module: imports(path) for module, path in FILES.items()}


def test_no_file_imports_itself_by_a_detour() -> None:
    list(TopologicalSorter(edges()).static_order())  # raises `CycleError` with the files in it


def test_no_folder_imports_itself_by_a_detour() -> None:
    folders: dict[str, set[str]] = {}
    for module, others in edges().items():
        top = ".".join(module.split(".")[:2]) if module.startswith("nimble_coder") else "build_engine"
        for other in others:
            beneath = ".".join(other.split(".")[:2]) if other.startswith("nimble_coder") else "build_engine"
            if top != beneath:
                folders.setdefault(top, set()).add(beneath)
    list(TopologicalSorter(folders).static_order())


def test_no_room_of_the_gateway_imports_itself_by_a_detour() -> None:
    rooms: dict[str, set[str]] = {}
    for module, others in edges().items():
        parts = module.split(".")
        if parts[:2] != ["nimble_coder", "gateway"] or len(parts) < 4:
            continue
        for other in others:
            beneath = other.split(".")
            if beneath[:2] == ["nimble_coder", "gateway"] and len(beneath) > 3 and beneath[2] != parts[2]:
                rooms.setdefault(parts[2], set()).add(beneath[2])
    list(TopologicalSorter(rooms).static_order())
    assert {"access", "answers", "apis", "kserve", "prompts", "requests"} & set(rooms)


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("nimble_coder.gateway.server", set()),
        ("nimble_coder.supervisor.supervisor", {"jinja2", "rich"}),  # a moved artefact has its repository rendered
    ],
)
def test_who_serves_imports_nothing_of_the_build(module: str, needs: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY - needs} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_a_build_that_is_refused_has_not_loaded_pytorch() -> None:
    """It takes seconds, and a second of processor time."""
    code = "import sys, build_engine.build, nimble_coder.processes.verification; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


SERVED = """
import sys
from pathlib import Path
from build_engine.lookahead import LookaheadConfig
from nimble_coder.contract.request import Guide, GuideType, Request, Sampling
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.triton import bridge, metrics

engine_dir, tokenizer = map(Path, sys.argv[1:])
engine = TorchEngine(engine_dir, LookaheadConfig(8, 8, 8), TorchEngineOptions(tokenizer=tokenizer, device="cpu"))
hot = Sampling(temperature=1.0, repetition_penalty=1.1, log_probs=True, top_log_probs=2)
cold = Sampling(temperature=0.5)
held = Request([5, 6, 7], 9, guide=Guide(GuideType.REGEX, "[a-c]{2,5}"))
kinds = [Request([5, 6, 7], 9), Request([5, 6, 7], 9, sampling=hot), Request([5, 6, 7], 9, sampling=cold), held]
assert all(each.token_ids and not each.error for each in generate(engine, kinds))
engine.shutdown()
print(*sorted({"huggingface_hub", "jinja2", "tokenizers", "torch", "transformers"} & set(sys.modules)))
"""


@pytest.mark.skipif(not find_step(), reason="the step was not compiled here")
def test_an_engine_on_a_cpu_serves_without_pytorch(tmp_path: Path) -> None:
    artifact = build(find_profile("demo"), None, Cache(tmp_path), silent)
    command = [sys.executable, "-c", SERVED, str(artifact.engine), str(artifact.tokenizer)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
