"""What people ask a coding model for, in four kinds; the texts are the project's own, in `scenarios/`.

A file in there holds source code whose holes, `{{...}}`, are what infills ask for; edits ask for the whole file again.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from nimble_coder.bench.coding_prompts import coding_prompts

TEXTS = Path(__file__).parent / "scenarios"
HOLE = re.compile(r"\{\{(.*?)\}\}")
SEPARATOR = "\n---\n"
CHAT = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
"""Qwen2.5-Coder's chat template around one question."""


@dataclass(frozen=True)
class Prompt:
    """One thing to ask; `{number}` in its text becomes another number in each request."""

    name: str
    question: str = ""
    """Of a chat; empty for the others."""
    prefix: str = ""
    suffix: str | None = None

    def numbered(self, number: int) -> "Prompt":
        """The prompt as a text that the service has not seen: it would keep the beginning of one it has.

        The number has six digits, so that all are equally long.
        """
        mark = f"{number % 1_000_000:06}"
        if self.question:
            return Prompt(self.name, f"Question {mark}. {self.question}")
        return Prompt(self.name, prefix=f"# {mark}\n{self.prefix}", suffix=self.suffix)

    @property
    def text(self) -> str:
        """As one text with the model's own control tokens, for an endpoint that knows neither chats nor infills."""
        if self.question:
            return CHAT.format(question=self.question)
        if self.suffix is None:
            return self.prefix
        return f"<|fim_prefix|>{self.prefix}<|fim_suffix|>{self.suffix}<|fim_middle|>"


@dataclass(frozen=True)
class Scenario:
    """Prompts of one kind, and the longest answer that they are given."""

    name: str
    max_tokens: int
    prompts: list[Prompt]

    def take(self, count: int, turn: int = 0) -> list[Prompt]:
        """So many of its prompts: the first ones in turn 0, those behind them in turn 1, and round again."""
        return list(islice(cycle(self.prompts), turn * count, (turn + 1) * count))


def chats() -> Iterator[Prompt]:
    """Questions with short and long answers."""
    for index, question in enumerate((TEXTS / "chat.txt").read_text(encoding="utf-8").split(SEPARATOR)):
        yield Prompt(f"chat {index}", question.strip())


def completions() -> Iterator[Prompt]:
    """Beginnings of code, without those that are chats or infills already."""
    for name, text in coding_prompts().items():
        if "<|" not in text:
            yield Prompt(name, prefix=text)


def infills() -> Iterator[Prompt]:
    """Every hole of every file, another file before it: some 1,800 tokens of prompt for a few of answer.

    By turns of the files, so that few prompts are of all of them.
    """
    files = sources()
    holes = {name: list(HOLE.finditer(content)) for name, content in files.items()}
    for index in range(max(map(len, holes.values()))):
        for other, (name, content) in zip(list(files)[1:] + list(files)[:1], files.items(), strict=True):
            if index < len(holes[name]):
                hole = holes[name][index]
                prefix = f"# file: {other}\n{filled(files[other])}\n# file: {name}\n{filled(content[: hole.start()])}"
                yield Prompt(f"{name} hole {index}", prefix=prefix, suffix=filled(content[hole.end() :]))


def edits() -> Iterator[Prompt]:
    """A file and a small change to it; the answer is the whole file, nearly all of which stands in the question."""
    files = sources()
    for index, each in enumerate((TEXTS / "edit.txt").read_text(encoding="utf-8").split(SEPARATOR)):
        name, _, change = each.strip().partition(": ")
        question = f"{change} Answer with the whole file and nothing else.\n\n```\n{filled(files[name])}```"
        yield Prompt(f"edit {index} of {name}", question)


def sources() -> dict[str, str]:
    """File name to content, holes marked."""
    found = sorted(path for path in TEXTS.glob("*.txt") if path.stem.count("."))
    return {path.stem: path.read_text(encoding="utf-8") for path in found}


def filled(content: str) -> str:
    """Source code without the marks of its holes."""
    return HOLE.sub(r"\1", content)


def scenarios() -> dict[str, Scenario]:
    """All four, by name."""
    kinds = {"chat": (chats, 256), "completion": (completions, 128), "infill": (infills, 32), "edit": (edits, 1024)}
    return {name: Scenario(name, tokens, list(prompts())) for name, (prompts, tokens) in kinds.items()}
