"""What a tokenizer's files say of the tokens that end a generation and fill up a batch."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any


class ControlTokens:
    """Those of a directory with `tokenizer_config.json`, and often `generation_config.json`."""

    def __init__(self, directory: Path, id_of: Callable[[str], int | None]) -> None:
        """`id_of` has the id of a token, None where the tokenizer lacks it. The files are read at once.

        Raises `ValueError` for a file that is no JSON object.
        """
        self._directory = directory
        self._id_of = id_of
        self._generation, self._config = (self._json(f"{name}_config.json") for name in ("generation", "tokenizer"))

    @cached_property
    def end_ids(self) -> list[int]:
        """The ids that end a generation, the most usual first: Qwen2.5-Coder Instruct has two. Raises `ValueError` for
        what is no id, and for a token that the tokenizer lacks."""
        found = self._generation.get("eos_token_id")
        if found is None:
            return [self._id("eos_token")]
        ids = found if isinstance(found, list) else [found]
        if not ids or any(type(each) is not int or each < 0 for each in ids):
            raise ValueError(f"{self._directory}: generation_config.json has {found!r:.40} as eos_token_id")
        return ids

    @cached_property
    def pad_id(self) -> int:
        """The id that fills up shorter rows of a batch. Raises `ValueError` as `end_ids` does."""
        return self.end_ids[0] if self._config.get("pad_token") is None else self._id("pad_token")

    def _id(self, key: str) -> int:
        token = self._config.get(key)
        content = token.get("content") if isinstance(token, dict) else token
        if not isinstance(content, str):
            raise ValueError(f"{self._directory}: tokenizer_config.json has {token!r:.40} as {key}, and no token")
        found = self._id_of(content)
        if found is None:
            raise ValueError(f"{self._directory}: tokenizer_config.json names {content!r}, tokenizer.json lacks it")
        return found

    def _json(self, name: str) -> dict[str, Any]:
        path = self._directory / name
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds no JSON object")
        return content
