"""One stream for what all processes say."""

import errno
import io
import json
import os
import re
import subprocess
import time
from collections import deque
from contextlib import suppress
from threading import Thread
from typing import Any

import pytest

from nimble_coder.processes import log as process_log
from nimble_coder.processes.log import Line, ProcessLog

GLOG = 'W1124 19:45:21.003035 17200 memory.cc:273] "no \\"pinned\\" memory"'


def written(log: ProcessLog, name: str, text: bytes) -> None:
    with log.open(name) as output:
        subprocess.run(["cat"], input=text, stdout=output, check=True)
    log.close()


def test_each_line_has_its_process_before_it() -> None:
    stream = io.StringIO()
    log = ProcessLog(stream=stream)
    written(log, "triton", b"one\n\ntwo \r10%\r20%\nlast")
    log.say("supervisor", "done")
    assert stream.getvalue().splitlines() == [
        "[triton] one",
        "[triton] two",
        "[triton] 10%",
        "[triton] 20%",
        "[triton] last",
        "[supervisor] done",
    ]
    assert log.mentions("triton", re.compile("LAST", re.IGNORECASE))
    assert not log.mentions("gateway", re.compile("last"))


def test_as_json_each_line_is_an_object_with_its_level() -> None:
    stream = io.StringIO()
    log = ProcessLog(as_json=True, stream=stream)
    written(log, "triton", GLOG.encode() + b"\nplain \xff\n")
    written(log, "gateway", b'{"process": "gateway", "message": "as it is"}\n')
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line.get("level"), line["process"]) for line in lines] == [
        ("warning", "triton"),
        ("info", "triton"),
        (None, "gateway"),
    ]
    assert lines[0]["message"] == GLOG
    assert lines[2]["message"] == "as it is"


class FullDisk(io.StringIO):
    """A file that cannot be written."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_stream_that_cannot_be_written_any_more_holds_up_no_process(as_json: bool) -> None:
    log = ProcessLog(as_json, FullDisk())
    written(log, "triton", b'{"message": "many"}\n' * 10_000 + b"last\n")  # more than a pipe holds
    log.say("supervisor", "done")
    assert log.recent["triton"][-1].text == "last"


def test_lines_that_come_while_others_are_looked_at_disturb_nobody() -> None:
    log = ProcessLog(stream=io.StringIO())
    lines = log.recent["triton"] = deque([Line(0.0, "loading")] * 3, maxlen=3)

    class Slow:
        """A pattern; the process goes on writing while it is compared."""

        def search(self, _: str) -> None:
            lines.append(Line(0.0, "more"))

    slow: Any = Slow()
    assert not log.mentions("triton", slow)


def test_lines_from_before_are_not_mentioned() -> None:
    log = ProcessLog(stream=io.StringIO())
    written(log, "triton", b"out of memory\n")
    behind = time.monotonic()
    written(log, "triton", b"another\n")
    assert log.mentions("triton", re.compile("memory"))
    assert not log.mentions("triton", re.compile("memory"), behind)
    assert log.mentions("triton", re.compile("another"), behind)


def say_much(log: ProcessLog) -> None:
    for number in range(20_000):
        log.say("gateway", f"line {number}")


def test_a_reader_who_stands_still_keeps_nobody_waiting_and_is_told_what_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A terminal that was stopped, or `less`: what writes waits for this log, and clients wait for what writes."""
    monkeypatch.setattr(process_log, "PATIENCE_SECONDS", 0.1)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def there() -> list[str]:
        found = b""
        with suppress(BlockingIOError):
            while part := os.read(reading, 65_536):
                found += part
        return found.decode().splitlines()

    with os.fdopen(writing, "w") as stream:
        log = ProcessLog(stream=stream)
        saying = Thread(target=say_much, args=(log,), daemon=True)
        saying.start()
        saying.join(30)
        assert not saying.is_alive()
        assert there()[0] == "[gateway] line 0"
        log.say("gateway", "last")
        lost, last = there()
    os.close(reading)
    assert re.fullmatch(r"\[log\] \d+ lines are lost: nobody read them", lost)
    assert last == "[gateway] last"
