"""Fill-in-the-middle prompts in Qwen2.5-Coder's formats, cut to a budget of tokens.

Formats: the Qwen2.5-Coder repository's README (file level: prefix, suffix, middle; repository level: name and files
before it). Shares of the budget: llama.cpp's `/infill` gives the prefix three quarters and the suffix one.
"""

from dataclasses import dataclass, field

from nimble_coder.gateway.prompts.encoding import Piece, PromptEncoder

LONGEST_TOKEN = 64
"""Characters beyond budget times this cannot fit, save for runs of blanks: they are not even encoded."""


@dataclass(frozen=True)
class ContextFile:
    """A file of the repository that the model may look at."""

    text: str
    filename: str = ""


@dataclass(frozen=True)
class Infill:
    """What is around the cursor."""

    prefix: str
    suffix: str
    context: list[ContextFile] = field(default_factory=list)
    """The most relevant last: the first to go are at the front."""
    repository: str = "repository"
    filename: str = ""

    @property
    def size(self) -> int:
        """Characters of all texts."""
        return len(self.prefix) + len(self.suffix) + sum(len(file.text) for file in self.context)


def encode_infill(encoder: PromptEncoder, infill: Infill, budget: int) -> tuple[list[int], bool]:
    """The prompt in at most `budget` tokens, and whether something had to be left out.

    The prefix keeps its end and the suffix its beginning; the context gets what they leave, whole files only.
    """
    head = [*file_head(encoder, infill.filename)] if infill.context else []
    marks = len(encoder.encode(head)) + 3
    prefix, suffix, cut = fit(encoder, infill, max(budget - marks, 2))
    body = [
        *encoder.encode(head),
        encoder.id("<|fim_prefix|>"),
        *prefix,
        encoder.id("<|fim_suffix|>"),
        *suffix,
        encoder.id("<|fim_middle|>"),
    ]
    context, left_out = encode_context(encoder, infill, budget - len(body))
    return context + body, cut or left_out


def fit(encoder: PromptEncoder, infill: Infill, budget: int) -> tuple[list[int], list[int], bool]:
    """Prefix and suffix in `budget` tokens; what one does not need of its share, the other may use."""
    reach = budget * LONGEST_TOKEN
    prefix = encoder.plain(infill.prefix[-reach:])
    suffix = encoder.plain(infill.suffix[:reach])
    keep_suffix = min(len(suffix), max(budget // 4, budget - len(prefix)))
    keep_prefix = min(len(prefix), budget - keep_suffix)
    cut = keep_prefix < len(prefix) or keep_suffix < len(suffix)
    return prefix[len(prefix) - keep_prefix :], suffix[:keep_suffix], cut


def encode_context(encoder: PromptEncoder, infill: Infill, budget: int) -> tuple[list[int], bool]:
    """The repository's name and as many of the last files as fit."""
    if not infill.context:
        return [], False
    name = encoder.encode([encoder.id("<|repo_name|>"), f"{infill.repository}\n"])
    budget -= len(name)
    kept: list[list[int]] = []
    for file in reversed(infill.context):
        if len(file.text) > budget * LONGEST_TOKEN:
            break
        ids = encoder.encode([*file_head(encoder, file.filename), file.text])
        if len(ids) > budget:
            break
        budget -= len(ids)
        kept.insert(0, ids)
    ids = [i for file_ids in kept for i in file_ids]
    return (name + ids if budget >= 0 else []), len(kept) < len(infill.context)


def file_head(encoder: PromptEncoder, filename: str) -> list[Piece]:
    """What stands before a file's text."""
    return [encoder.id("<|file_sep|>"), f"{filename or 'file'}\n"]
