"""The project's own coding prompts: beginnings of Python files, holes to fill, and one chat turn."""

from pathlib import Path

OWN = Path(__file__).parent / "prompts"


def coding_prompts(folder: Path = OWN) -> dict[str, str]:
    """Name to prompt, sorted by name, from the folder's `.txt` files; of the project's own, `fibonacci_variant` is the
    kind of prompt NVIDIA's lookahead post measured."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
