"""What child processes write: each line with its process's name before it, or as one JSON object.

Gateways in JSON mode write objects themselves, which are passed on as they are.
"""

import json
import math
import os
import re
import select
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple, TextIO

GLOG = re.compile(r"^([IWEF])\d{4} [\d:.]+ ")
"""How a line of Triton's begins: level, month and day, time."""
LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical"}
REMEMBERED = 200
NAME = "log"
PATIENCE_SECONDS = 1
"""For who reads the lines, before they are lost."""
RECENT_SECONDS = 60.0
"""For so long a line is taken for the reason of an end; what is older has done no harm."""


def json_line(process: str, level: str, message: str, **more: str) -> str:
    """A line of the log as one JSON object."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "process": process, **more, "message": message}
    return json.dumps(line, ensure_ascii=False)


class Line(NamedTuple):
    """What a process has written."""

    time: float
    """When it came, as `time.monotonic` tells."""
    text: str


class ProcessLog:
    """One stream for everything that all processes say."""

    def __init__(self, as_json: bool = False, stream: TextIO | None = None) -> None:
        self._json, self._stream = as_json, stream or sys.stderr
        self._writing = threading.Lock()
        self._lost = 0
        """Lines that could not be written since the last one that could."""
        self._readers: list[threading.Thread] = []
        self.recent: dict[str, deque[Line]] = {}
        """The last lines of each process."""

    def open(self, name: str) -> IO[bytes]:
        """A pipe's end to start a process with; the caller closes its copy then."""
        reading, writing = os.pipe()
        lines = self.recent.setdefault(name, deque(maxlen=REMEMBERED))
        reader = threading.Thread(target=self._relay, args=(name, reading, lines), daemon=True)
        reader.start()
        self._readers.append(reader)
        return os.fdopen(writing, "wb")

    def say(self, name: str, text: str, level: str = "info") -> None:
        """A line of this process's own, or of another's."""
        self._write(self._line(name, text, level))

    def _line(self, name: str, text: str, level: str) -> str:
        return json_line(name, level, text) if self._json else f"[{name}] {text}"

    def close(self, seconds: float = 2.0) -> None:
        """Waits until all that the processes have written is out; they must have ended."""
        for reader in self._readers:
            reader.join(seconds)

    def mentions(self, name: str, pattern: re.Pattern[str], since: float = 0.0, until: float = math.inf) -> bool:
        """Whether one of the last lines of a process matches that have come since then, and until then."""
        lines = [*self.recent.get(name, ())]  # more come meanwhile
        return any(since <= line.time <= until and pattern.search(line.text) for line in lines)

    def _relay(self, name: str, reading: int, lines: deque[Line]) -> None:
        # A progress bar redraws its line with carriage returns: each drawing is a line here.
        with open(reading, encoding="utf-8", errors="replace", newline=None) as pipe:
            for raw in pipe:
                line = raw.rstrip()
                if not line:
                    continue
                lines.append(Line(time.monotonic(), line))
                if self._json and line.startswith("{"):
                    self._write(line)
                    continue
                level = GLOG.match(line)
                self.say(name, line, LEVELS[level[1]] if level else "info")

    def _write(self, line: str) -> None:
        """Where nobody reads the stream any more, or its disk is full, the line is lost, and the service goes on; also
        where a terminal was stopped or whoever reads stands still, since processes that write wait for this one."""
        with self._writing, suppress(OSError):
            if not self._is_taken():
                self._lost += 1
                return
            if self._lost:
                lost, self._lost = self._lost, 0
                print(self._line(NAME, f"{lost} lines are lost: nobody read them", "warning"), file=self._stream)
            print(line, file=self._stream, flush=True)

    def _is_taken(self) -> bool:
        """Whether the stream takes a line. It has a moment for that, until one is lost."""
        try:
            output = self._stream.fileno()
        except (OSError, ValueError):  # in memory, or closed
            return True
        poll = select.poll()
        poll.register(output, select.POLLOUT)
        return bool(poll.poll(0 if self._lost else 1000 * PATIENCE_SECONDS))


Log = Path | ProcessLog | None
"""Where a process's output goes: a file, a shared log, or this process's own stderr."""


def open_log(log: Log, name: str) -> IO[bytes]:
    """What to start a process with; to be closed once it runs."""
    if isinstance(log, ProcessLog):
        return log.open(name)
    return log.open("ab") if log else os.fdopen(os.dup(2), "wb")
