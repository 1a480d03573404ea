"""The embedded model's card: what it was trained on, how well, and what it cannot do."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """What a training run measured; losses are mean cross entropy in nats per token."""

    files: int
    held_out_files: int
    characters: int
    corpus_sha256: str
    python: str
    torch: str
    device: str
    steps: int
    tokens: int
    minutes: float
    training_loss: float
    held_out_loss: float
    parameters: int
    seed: int


def model_card(run: Run) -> str:
    """The card in Markdown, with the metadata block that the Hugging Face hub reads."""
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [code, fill-in-the-middle, demo]
---
# Nimble Coder embedded model

A {run.parameters / 1e6:.1f}M-parameter code model of Qwen2's architecture. It ships with Nimble Coder so that the
whole service (build, Triton, lookahead decoding, infilling) runs anywhere in seconds, without a download. It is a
demonstration and a test subject, not a coding assistant: for work, build an engine from Qwen2.5-Coder.

| | |
|---|---|
| data | source of Python {run.python}'s standard library as installed, its `test` package included: {run.files} files, {run.characters / 1e6:.1f} million characters |
| licence of the data | PSF License Agreement (Python Software Foundation), as found in the interpreter's `LICENSE.txt` |
| corpus SHA-256 | `{run.corpus_sha256}` (paths and texts, held-out files included) |
| forms | half of the documents in fill-in-the-middle form (prefix, suffix, middle), a tenth with repository context, some ChatML turns |
| training | {run.steps} steps, {run.tokens / 1e6:.1f} million tokens, {run.minutes:.0f} minutes on `{run.device}`, PyTorch {run.torch}, seed {run.seed} |
| training loss | {run.training_loss:.3f} nats per token (mean of the last 50 steps) |
| loss on held-out files | {run.held_out_loss:.3f} nats per token, {run.held_out_files} files that training never saw |
| context | trained on 768 tokens; positions up to 8,192 are accepted, quality falls beyond the trained length |
| tokenizer | byte-level BPE, 4,096 ids, with Qwen2.5-Coder's 22 control tokens and their `special` flags |
| made by | `python -m training.train` in the repository |

**It can** continue Python in the style of the standard library with plausible syntax and indentation, repeat patterns
from its context, fill a hole between a prefix and a suffix with the FIM tokens, and end its turns.

**It cannot** reason, follow instructions beyond a function's shape, write correct programs reliably, or write any
language but Python. It may repeat passages of the standard library, whose licence then applies to them.
"""
