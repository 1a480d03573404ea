"""What a tokenizer's files say of the tokens that end a generation and fill up a batch."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any


class ControlTokens:
    """Those of a directory with `tokenizer_config.json`, and often `generation_config.json`."""

    def __init__(self, directory: Path, id_of: Callable[[str], int | None]) -> None:
        """`id_of` has the id of a token, None where the tokenizer lacks it. The files are read at once."""
        self._directory = directory
        self._id_of = id_of
        self._generation, self._config = (self._json(f"{name}_config.json") for name in ("generation", "tokenizer"))

    @cached_property
    def end_ids(self) -> list[int]:
        """The ids that end a generation, the most usual first: Qwen2.5-Coder Instruct has two. Raises `ValueError` for
        a token that the tokenizer lacks."""
        found = self._generation.get("eos_token_id")
        if found is None:
            return [self._id(self._config["eos_token"])]
        return [int(i) for i in found] if isinstance(found, list) else [int(found)]

    @cached_property
    def pad_id(self) -> int:
        """The id that fills up shorter rows of a batch. Raises `ValueError` as `end_ids` does."""
        token = self._config.get("pad_token")
        return self.end_ids[0] if token is None else self._id(token)

    def _id(self, token: str | dict[str, Any]) -> int:
        content = token if isinstance(token, str) else token["content"]
        found = self._id_of(content)
        if found is None:
            raise ValueError(f"{self._directory}: tokenizer_config.json names {content!r}, tokenizer.json lacks it")
        return int(found)

    def _json(self, name: str) -> dict[str, Any]:
        path = self._directory / name
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
