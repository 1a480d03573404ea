"""The header of a GGUF file: metadata and where each tensor lies, every length held to the file before it is believed.

The format is described in ggml's docs/gguf.md (github.com/ggml-org/ggml). The `gguf` package has a reader too; it makes
an array of each metadata element (7 s for a vocabulary of Qwen2.5), maps the file, so that one that shrinks kills the
process, and takes lengths as they come. Its sizes of blocks and its dequantisation are used.
"""

import os
import stat
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from build_engine.checkpoint import CheckpointError

Value = int | float | bool | str | list[str] | list[int] | list[float]

MAGIC, VERSIONS = b"GGUF", (2, 3)
LARGEST_HEADER = 128 << 20
"""Bytes; Qwen2.5's have 6 million. What lies behind them is not read as a header."""
LONGEST_ARRAY = 1 << 22
"""Elements; Qwen2.5's have 151,936."""
LONGEST_NAME = 64
"""Bytes of a tensor's name, by the format."""
MOST_DIMENSIONS = 4
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value to its code in `struct`."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header announces it."""

    name: str
    shape: tuple[int, ...]
    """Rows first, the way of PyTorch; the file has it the other way round."""
    kind: GGMLQuantizationType
    offset: int
    """Bytes from the beginning of the file."""

    @property
    def row_bytes(self) -> int:
        """Bytes of the values that are contiguous in the last dimension."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // int(block) * int(size)

    @property
    def end(self) -> int:
        """Bytes from the beginning of the file to the first one behind it."""
        return self.offset + prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class Header:
    """What one file says of itself."""

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]

    @classmethod
    def read(cls, path: Path) -> "Header":
        """Raises `CheckpointError` for everything that is not a whole GGUF file, and says what is wrong where."""
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            return _Reader(path, file.read(min(size, LARGEST_HEADER)), size).header()


def open_file(path: Path) -> BinaryIO:
    """A regular file for reading; raises `CheckpointError` for a pipe or a device, which could block for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is no regular file; give a checkpoint's directory or a GGUF file")
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


@dataclass
class _Reader:
    """Goes once through a header's bytes."""

    path: Path
    content: bytes
    size: int
    at: int = 0

    def header(self) -> Header:
        if self.take(4, "the magic number") != MAGIC:
            raise CheckpointError(f"{self.path} is not a GGUF file")
        version = self.integer("I", "the version")
        if version & 0xFFFF == 0:
            raise self.wrong("big-endian, and only little-endian files are served")
        if version not in VERSIONS:
            raise self.wrong(f"version {version} of the format, and only {VERSIONS[0]} and {VERSIONS[1]} are known")
        tensors, pairs = self.count("tensors", 24), self.count("metadata", 13)
        metadata: dict[str, Value] = {}
        for _ in range(pairs):
            key = self.string("a key")
            if key in metadata:
                raise self.wrong(f"twice the key {key}")
            metadata[key] = self.value(self.integer("I", f"the type of {key}"), key)
        infos = [self.tensor() for _ in range(tensors)]
        return Header(self.path, metadata, self.placed(infos, metadata.get("general.alignment", 32)))

    def wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is a GGUF file with {what}")

    def take(self, length: int, what: str) -> bytes:
        """The next bytes; raises where the file ends before."""
        if length > len(self.content) - self.at:
            if self.size > len(self.content):
                raise self.wrong(f"more than {LARGEST_HEADER >> 20} MiB before its tensors: {what} is not read")
            if not self.at:
                raise CheckpointError(f"{self.path} is not a GGUF file: it has {self.size} bytes")
            raise CheckpointError(f"{self.path} is truncated at {what}, byte {self.size}: download it again")
        self.at += length
        return self.content[self.at - length : self.at]

    def number(self, code: str, what: str) -> int | float | bool:
        found: int | float | bool = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]
        return found

    def integer(self, code: str, what: str) -> int:
        return int(self.number(code, what))

    def count(self, what: str, least: int) -> int:
        """A number of things that take at least so many bytes each, which have to be there."""
        found = self.integer("Q", f"the number of {what}")
        if found > LONGEST_ARRAY or found * least > self.size - self.at:
            raise CheckpointError(
                f"{self.path} announces {found} {what} and has {self.size} bytes: it is truncated or damaged, "
                f"download it again"
            )
        return found

    def string(self, what: str) -> str:
        length = self.integer("Q", what)
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            raise self.wrong(f"text that is not UTF-8 in {what}") from None

    def value(self, kind: int, key: str) -> Value:
        if kind in SCALARS:
            return self.number(SCALARS[kind], key)
        if kind == STRING:
            return self.string(key)
        if kind == ARRAY:
            return self.array(key)
        raise self.wrong(f"the unknown type {kind} of {key}")

    def array(self, key: str) -> Value:
        kind = self.integer("I", key)
        if kind == STRING:
            return [self.string(key) for _ in range(self.count(f"texts of {key}", 8))]
        if kind not in SCALARS:
            raise self.wrong(f"an array of type {kind} as {key}, and arrays of numbers and texts are known")
        width = struct.calcsize("<" + SCALARS[kind])
        length = self.count(f"numbers of {key}", width)
        return list(struct.unpack(f"<{length}{SCALARS[kind]}", self.take(length * width, key)))

    def tensor(self) -> TensorInfo:
        """The next tensor, its offset still relative to the beginning of the tensors' data."""
        name = self.string("a tensor's name")
        if len(name.encode()) > LONGEST_NAME:
            raise self.wrong(f"a tensor name of {len(name.encode())} bytes, the format allows {LONGEST_NAME}")
        dimensions = self.integer("I", f"the shape of {name}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self.wrong(f"{dimensions} dimensions of {name}, the format allows 1 to {MOST_DIMENSIONS}")
        shape = tuple(reversed([self.integer("Q", f"the shape of {name}") for _ in range(dimensions)]))
        kind, offset = self.integer("I", f"the type of {name}"), self.integer("Q", f"the offset of {name}")
        if kind not in iter(GGMLQuantizationType):
            raise self.wrong(f"the unknown type {kind} of {name}")
        block, _ = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if 0 in shape or shape[-1] % block:
            raise self.wrong(f"shape {list(shape)} of {name}, whose rows are no multiple of {block} values")
        return TensorInfo(name, shape, GGMLQuantizationType(kind), offset)

    def placed(self, infos: list[TensorInfo], alignment: Value) -> dict[str, TensorInfo]:
        """Tensors by name, offsets from the file's beginning; each of them is in the file, and none in another."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.wrong(f"the alignment {alignment}, which is no power of two")
        data = -(-self.at // alignment) * alignment
        found: dict[str, TensorInfo] = {}
        for info in infos:
            if info.name in found:
                raise self.wrong(f"two tensors that are called {info.name}")
            found[info.name] = TensorInfo(info.name, info.shape, info.kind, data + info.offset)
        behind = data
        for info in sorted(found.values(), key=lambda info: info.offset):
            if info.offset < behind:
                raise self.wrong(f"a tensor {info.name} that overlaps another")
            behind = info.end
            if behind > self.size:
                raise CheckpointError(
                    f"{self.path} is truncated: {info.name} ends at byte {behind}, the file has {self.size}; "
                    f"download it again"
                )
        return found
