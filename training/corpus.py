"""The training text: the Python standard library's own source, cut into documents and dressed in Qwen's control tokens.

Forms follow Qwen2.5-Coder (QwenLM/Qwen3-Coder, README and examples): prefix-suffix-middle infilling,
repository context and ChatML turns.
"""

import ast
import hashlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

END = "<|endoftext|>"
FIM_SHARE = 0.5
CHAT_SHARE = 0.08
REPO_SHARE = 0.10
MIN_DOCUMENT, MAX_DOCUMENT = 600, 3200  # characters
# Character tables and machine-made text: long, and nothing a code model should learn to write.
SKIPPED = ("site-packages", "encodings", "pydoc_data", "lib2to3/tests/data", "test/test_importlib/data", "__pycache__")


@dataclass(frozen=True)
class SourceFile:
    """One file of the standard library; `path` is relative to its root."""

    path: str
    text: str

    @property
    def held_out(self) -> bool:
        """True for the 2 % of files, chosen by a hash of their path, that training never sees."""
        return int(hashlib.sha256(self.path.encode()).hexdigest(), 16) % 50 == 0


def read_standard_library() -> list[SourceFile]:
    """Every readable Python file of the running interpreter's standard library, sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root).as_posix()
        if any(part in relative for part in SKIPPED):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            ast.parse(text)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue  # the library ships deliberately broken files as test data
        if len(text) > 200:
            files.append(SourceFile(relative, text))
    return files


def digest(files: list[SourceFile]) -> str:
    """SHA-256 over all paths and texts: names the corpus in the model card."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.path}\0{file.text}\0".encode())
    return total.hexdigest()


def documents(files: list[SourceFile], rng: random.Random) -> Iterator[str]:
    """One epoch of documents, each ending with the end-of-text token; half of them infilling documents."""
    for file in rng.sample(files, len(files)):
        for piece in pieces(file.text, rng):
            yield dress(file, piece, rng) + END
        for turn in chat_turns(file.text):
            if rng.random() < CHAT_SHARE:
                yield turn + END


def pieces(text: str, rng: random.Random) -> Iterator[str]:
    """Cuts a file, at line ends, into pieces of a random length; loses nothing but a short tail."""
    lines = text.splitlines(keepends=True)
    limit = rng.randint(MIN_DOCUMENT, MAX_DOCUMENT)
    piece = ""
    for line in lines:
        piece += line
        if len(piece) >= limit:
            yield piece
            piece, limit = "", rng.randint(MIN_DOCUMENT, MAX_DOCUMENT)
    if len(piece) > 100:
        yield piece


def dress(file: SourceFile, piece: str, rng: random.Random) -> str:
    """Gives a piece one of its forms: infilling, with repository context, or as it stands."""
    body = infill(piece, rng) if rng.random() < FIM_SHARE else piece
    if rng.random() < REPO_SHARE:
        return f"<|repo_name|>python\n<|file_sep|>{file.path}\n{body}"
    return body


def infill(piece: str, rng: random.Random) -> str:
    """Prefix-suffix-middle form; the middle is what an editor asks for: the rest of a line, or a few lines."""
    start = rng.randrange(len(piece) // 8, len(piece) * 7 // 8)
    line_end = piece.find("\n", start)
    if rng.random() < 0.4 and line_end > start:
        end = line_end
    else:
        end = min(len(piece), start + int(rng.triangular(8, 700, 120)))
    prefix, middle, suffix = piece[:start], piece[start:end], piece[end:]
    return f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>{middle}"


def chat_turns(text: str) -> Iterator[str]:
    """A user turn that asks for each short documented function, and the function as the answer."""
    lines = text.splitlines(keepends=True)
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        wish = (ast.get_docstring(node) or "").split("\n")[0].strip()
        source = "".join(lines[node.lineno - 1 : node.end_lineno]).rstrip()
        if 20 <= len(wish) <= 120 and len(source) <= 1500:
            yield (
                "<|im_start|>system\nYou are a helpful coding assistant.<|im_end|>\n"
                f"<|im_start|>user\nWrite a Python function `{node.name}`: {wish}<|im_end|>\n"
                f"<|im_start|>assistant\n```python\n{source}\n```<|im_end|>\n"
            )
