"""The project's own coding prompts: beginnings of Python files, holes to fill, and one chat turn."""

from pathlib import Path


def coding_prompts() -> dict[str, str]:
    """Name to prompt, sorted by name; `fibonacci_variant` is the kind of prompt NVIDIA's lookahead post measured."""
    folder = Path(__file__).parent / "prompts"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
