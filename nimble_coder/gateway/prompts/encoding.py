"""Text to token ids so that no text a user sends can become a control token.

The tokenizer's added tokens (`<|im_end|>`, `<|fim_middle|>`, `</tool_call>`, ...) are matched in any text it encodes,
whether they are marked special or not. Here text goes through the same tokenizer without them, so a control string in
somebody's code is ordinary characters; control tokens are put between the texts as ids.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from nimble_coder.gateway.errors import ApiError
from nimble_coder.text.tokenizer import TextTokenizer

Piece = str | int
"""A text to be encoded as it is, or the id of a control token."""

END_TOKENS = ("<|endoftext|>", "<|im_end|>")
FIM_TOKENS = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")


class PromptEncoder:
    """Encodes prompts made of texts and control tokens."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Raises `ValueError` where the tokenizer is not Qwen2.5-Coder's kind."""
        self._control = tokenizer.control_ids
        missing = [token for token in (*END_TOKENS, *FIM_TOKENS, "<|im_start|>") if token not in self._control]
        if missing:
            lacks = f"tokenizer.json lacks {', '.join(missing)}"
            raise ValueError(f"{tokenizer.directory}: {lacks}; Qwen2.5-Coder's has them")
        self._plain = tokenizer.without_control()
        self._pattern = re.compile("(" + "|".join(map(re.escape, sorted(self._control, key=len, reverse=True))) + ")")

    def id(self, token: str) -> int:
        """The id of a control token."""
        return self._control[token]

    def control_id(self, text: str) -> int | None:
        """The id of a text that spells a control token."""
        return self._control.get(text)

    @cached_property
    def fim_end_ids(self) -> tuple[int, ...]:
        """The ids behind which nothing of a filled-in middle can follow; Qwen's own examples stop at them."""
        return tuple(self._control[token] for token in (*END_TOKENS, *FIM_TOKENS))

    def split(self, text: str) -> list[Piece]:
        """The pieces of a raw prompt, in which control strings are meant as control tokens."""
        return [self._control.get(part, part) for part in self._pattern.split(text) if part]

    def plain(self, text: str) -> list[int]:
        """Ids of a text, control strings in it being characters like others."""
        # Of the library's ways, only the batch gives up Python's lock while it works.
        return list(self._plain.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def encode(self, pieces: Iterable[Piece]) -> list[int]:
        """Ids of pieces; texts side by side are encoded as one, as the tokenizer would."""
        ids: list[int] = []
        text = ""
        for piece in pieces:
            if isinstance(piece, str):
                text += piece
                continue
            if text:
                ids += self.plain(text)
                text = ""
            ids.append(piece)
        return ids + self.plain(text) if text else ids

    def raw(self, text: str) -> list[int]:
        """Ids of a raw prompt, in which control strings are meant as control tokens."""
        return self.encode(self.split(text))

    def places(self, text: str) -> list[int]:
        """Where in a raw prompt each of its tokens begins, in characters; one within a character, where that does. The
        tokens may spell other characters: the tokenizer composes some."""
        found, place = list[int](), 0
        for part in self._pattern.split(text):
            if part in self._control:
                found.append(place)
            elif part:
                (encoded,) = self._plain.encode_batch([part], add_special_tokens=False)
                found += [place + start for start, _ in encoded.offsets]
            place += len(part)
        return found

    def check_ids(self, ids: Sequence[object], vocab_size: int, field: str = "prompt") -> list[int]:
        """Token ids that a field gives; raises `ApiError` for what is none."""
        checked: list[int] = []
        for i in ids:
            if not isinstance(i, int) or not 0 <= i < vocab_size:
                text = f"{field} holds {str(i)[:40]!r}, which is not a token id: ids go from 0 to {vocab_size - 1}"
                raise ApiError(400, text, "invalid_token_id", field)
            checked.append(i)
        return checked
