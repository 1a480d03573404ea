"""The texts of pools in a file, where somebody asked that they outlive the engine.

It holds what clients sent and were answered, as token ids, which anybody can turn back into text: so the service's own
user alone may read it.
"""

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from nimble_coder.engine.corpus import Corpus
from nimble_coder.engine.pool import PoolTexts

logger = logging.getLogger(__name__)

FORMAT = 1
SECONDS = 10.0
"""Between two looks at what is new: what is lost where the engine is killed."""
TOKEN = np.dtype("<i4")


class Contents(msgspec.Struct):
    """What the file holds, as MessagePack."""

    format: int
    texts: list[tuple[str, bytes]]
    """Pool and token ids, the oldest first."""


class TextsFile:
    """One file of a directory: token ids mean the same as long as the tokenizer does, whose digest is in its name."""

    def __init__(self, directory: Path, tokenizer: Path) -> None:
        """`tokenizer` is a file; `directory` is made when something is written."""
        digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
        self._path = directory / f"texts-{digest[:16]}.msgpack"
        self._encoded: dict[Corpus, bytes] = {}

    def read(self, vocab_size: int) -> PoolTexts:
        """What `write` has written; nothing, and a line in the log, where there is something else."""
        try:
            contents = msgspec.msgpack.decode(self._path.read_bytes(), type=Contents)
            if contents.format != FORMAT:
                raise ValueError(f"its format is {contents.format}, this reads {FORMAT}")
            texts = [(pool, np.frombuffer(ids, TOKEN)) for pool, ids in contents.texts]
            if any(ids.size and not 0 <= ids.min() <= ids.max() < vocab_size for _, ids in texts):
                raise ValueError("it has ids that are no tokens")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read, drafts begin without it: %s", self._path, error)
            return []
        return [(pool, Corpus(ids.tolist())) for pool, ids in texts]

    def write(self, texts: PoolTexts) -> None:
        """Writes the file whole or not at all; raises `OSError`."""
        # Texts that have ended do not change, and making bytes of all of them would keep the engine's thread waiting.
        self._encoded = {
            corpus: self._encoded.get(corpus) or np.array(corpus.tokens, TOKEN).tobytes() for _, corpus in texts
        }
        contents = Contents(FORMAT, [(pool, self._encoded[corpus]) for pool, corpus in texts])
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".texts-", dir=self._path.parent)  # for its owner alone
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.msgpack.encode(contents))
            draft.rename(self._path)
        finally:
            draft.unlink(missing_ok=True)

    def __str__(self) -> str:
        return str(self._path)


class Keeper:
    """Writes the file on a thread of its own when there is something new, and at the end."""

    def __init__(self, file: TextsFile, texts: Callable[[], PoolTexts], seconds: float = SECONDS) -> None:
        """`texts` tells those of now."""
        self._file = file
        self._texts = texts
        self._seconds = seconds
        self._written: PoolTexts = texts()
        self._is_failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="kept-texts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what is new, and ends."""
        self._stopping.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._stopping.wait(self._seconds):
            self._write()
        self._write()

    def _write(self) -> None:
        texts = self._texts()
        if texts == self._written:
            return
        try:
            self._file.write(texts)
        except OSError as error:
            if not self._is_failing:  # told once, not every few seconds
                logger.warning("the texts behind drafts are not kept in %s: %s", self._file, error.strerror or error)
            self._is_failing = True
        else:
            self._written, self._is_failing = texts, False
