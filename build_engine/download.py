"""Large files of a hub, fetched so that a download goes on where it ended, however it ended.

`huggingface_hub` downloads into a file of a random name, which the next process does not find again
(`_download_to_tmp_and_move` in its file_download.py); here it has the name that the whole file will have.
"""

import queue
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from huggingface_hub import get_hf_file_metadata
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # its documented way

from build_engine.snapshot import PARTIAL

WORKERS = 4


@dataclass(frozen=True)
class Download:
    """One file."""

    url: str
    target: Path
    size: int

    def run(self) -> None:
        """Fetches what is not there yet; raises what `huggingface_hub` raises. Nobody else may fetch it meanwhile."""
        partial = self.target.with_name(self.target.name + PARTIAL)
        if partial.is_file() and partial.stat().st_size > self.size:
            partial.unlink()
        place = get_hf_file_metadata(self.url).location
        headers = build_hf_headers()
        if urlparse(place).netloc != urlparse(self.url).netloc:
            headers.pop("authorization", None)  # the token is for the hub, not for its store
        # Unbuffered: what has arrived is in the file, whatever ends this process.
        with partial.open("ab", buffering=0) as file:
            http_get(place, file, resume_size=file.tell(), headers=headers, expected_size=self.size)
        partial.rename(self.target)


def download_all(downloads: Iterable[Download]) -> None:
    """Some at a time; raises the first error once all have ended.

    The threads do not keep a process that is told to end.
    """
    waiting = queue.SimpleQueue[Download]()
    for each in downloads:
        waiting.put(each)
    errors: list[Exception] = []

    def work() -> None:
        while not errors:
            try:
                waiting.get_nowait().run()
            except queue.Empty:
                return
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(WORKERS, waiting.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
