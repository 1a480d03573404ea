"""A checkpoint's tokenizer, as the serving stage uses it."""

from functools import cached_property, lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path

from tokenizers import Tokenizer

from build_engine.control_tokens import ControlTokens

PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
OTHERS = tuple(byte for byte in range(256) if byte not in PRINTABLE)
BYTES = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(OTHERS)}
"""Byte-level BPE's spelling of bytes as characters (GPT-2's `bytes_to_unicode`)."""
REMEMBERED = 16_384
"""Tokens whose bytes are not spelled again: log probabilities name the same ones all the time, twenty at each place."""


class TextTokenizer:
    """`tokenizer.json` and the ids its checkpoint stops at. Control tokens in the text become control tokens."""

    def __init__(self, directory: Path, *, is_late: bool = False) -> None:
        """Loads from a directory with `tokenizer.json`, `tokenizer_config.json`, and often `generation_config.json`.

        One that is late reads its vocabulary when it is first used, also where the directory has gone by then.
        """
        self.directory = directory
        self.token_bytes = lru_cache(REMEMBERED)(self._token_bytes)
        """What a token stands for: of a character that several tokens make up, this one's bytes."""
        self._control = ControlTokens(directory, self._id_of)
        with (directory / "tokenizer.json").open("rb") as file:
            self._file = mmap(file.fileno(), 0, access=ACCESS_READ)
        if not is_late:
            _ = self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        with self._file as content:
            return Tokenizer.from_buffer(content[:])

    def _id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added at its ends."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def without_control(self) -> Tokenizer:
        """A tokenizer of the same vocabulary, read once for both, to which control tokens are text like any other."""
        theirs = self._tokenizer
        plain = Tokenizer(theirs.model)
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            if (its := getattr(theirs, part)) is not None:
                setattr(plain, part, its)
        return plain

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """The ids of all tokens that are added to the vocabulary, special or not, by what they spell."""
        return {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items()}

    def _token_bytes(self, token: int) -> bytes:
        text = self._tokenizer.id_to_token(token) or ""
        if all(letter in BYTES for letter in text):
            return bytes(BYTES[letter] for letter in text)
        return text.encode()  # a control token

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids that do not show in decoded text."""
        return frozenset(i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)

    @property
    def end_ids(self) -> list[int]:
        """The ids that end a generation, the most usual first: Qwen2.5-Coder Instruct has two."""
        return self._control.end_ids

    @property
    def pad_id(self) -> int:
        """The id that fills up shorter rows of a batch."""
        return self._control.pad_id
