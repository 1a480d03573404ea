"""The tokenizer that forms are compiled for: the text of a control token is text like any other to it."""

import os
import re
import secrets
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO

import msgspec
from llguidance import LLTokenizer

TEXTS = re.compile(r'(?:#|//)[^\n]*|"(?:\\.|[^"\\\n])*+"?|/(?:\\.|[^/\\])++/?')
"""Comments, strings and regular expressions in Lark, as llguidance reads it (`parser/src/lark/lexer.rs`). One that does
not end, which is refused there, is one as far as it goes: looked for at each mark in it, it would take minutes."""
TEXTS_AND_NAMES = re.compile(rf"{TEXTS.pattern}|<[^<>\s]+>")


def form_tokenizer(directory: Path, vocab_size: int, placeholder: int) -> LLTokenizer:
    """llguidance's tokenizer from the directory's `tokenizer.json`. The `placeholder` is the first control token.

    Where a form forces the text of a control token, llguidance 1.9.1 takes the token for it, and then finds that the
    form has only its text. So it is not told of them: control tokens follow the vocabulary, and there it takes every id
    for a special one. It does have to know an end, the placeholder, whose text nobody can send.
    """
    stand_in = {"id": placeholder, "content": f"<{secrets.token_hex()}>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    # In memory, under a name that ends with this process: the library reads a file.
    with os.fdopen(os.memfd_create("tokenizer.json"), "wb") as file:
        write_with(directory / "tokenizer.json", msgspec.json.encode([{**stand_in, **flags}]), file)
        return LLTokenizer(f"/proc/self/fd/{file.fileno()}", vocab_size, placeholder)


def write_with(source: Path, added_tokens: bytes, target: IO[bytes]) -> None:
    """Writes a `tokenizer.json` that has other added tokens. Copies of its 11 MB would leave holes of 30 MiB
    in the process's memory, so it is mapped and written in parts."""
    with source.open("rb") as file:
        mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
    target.write(b'{"added_tokens":' + added_tokens)
    for name, value in msgspec.json.decode(mapped, type=dict[str, msgspec.Raw]).items():
        if name != "added_tokens":
            target.writelines((b",", msgspec.json.encode(name), b":", value))
    target.write(b"}")
    target.flush()


def by_number(lark: str, control: Mapping[str, int]) -> str:
    """Lark whose control tokens, by their names in `control`, are named by their ids."""
    return TEXTS_AND_NAMES.sub(lambda found: f"<[{control[found[0]]}]>" if found[0] in control else found[0], lark)
