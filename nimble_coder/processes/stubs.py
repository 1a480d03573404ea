"""The processes of Triton's Python models (its "stubs"), and those that it has given up.

While a model loads, Triton (2.51, `ReceiveMessageFromStub` in its `stub_launcher.cc`) gives its process up where it
shows no life for a second, as on a machine that stood still. It then frees the memory that both share, and waits for
the process to end. Most often Triton dies of the freed memory; else neither the process ends nor the wait.
"""

import math
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nimble_coder.processes.children import session_commands
from nimble_coder.processes.triton_installation import STUB

WAIT4 = {"x86_64": "61", "aarch64": "260"}.get(platform.machine())
"""The number of the call `wait4`: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h."""
LOOK_SECONDS, END_SECONDS = 1.0, 10.0
"""Between two looks, and for a process to end by itself."""


def stubs_of(session: int) -> dict[int, list[str]]:
    """Every model's process with its command line."""
    return {pid: command for pid, command in session_commands(session).items() if is_stub(command)}


def is_stub(command: Sequence[str]) -> bool:
    """Whether it runs a model, whose file comes next; Triton also starts one without any, to see whether it can."""
    return len(command) > 1 and command[0].endswith(STUB)


class LoadWatch:
    """Tells when Triton waits for a process that does not end; one whose model has failed does so in a moment."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._looked, self._since = time.monotonic(), math.inf
        self._waited_for: list[str] = []

    def stuck(self) -> str:
        """The model whose process is waited for in vain; empty where there is none, or the kernel does not say."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked, self._waited_for = now, waited_for(self._session)
            self._since = min(self._since, now) if self._waited_for else math.inf
        return self._waited_for[1] if now - self._since > END_SECONDS else ""


def waited_for(session: int) -> list[str]:
    """The command line of a running stub whose end Triton waits for."""
    stubs = stubs_of(session)
    for pid in session_commands(session).keys() - stubs.keys():
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            with suppress(OSError):  # ended, or not to be looked into
                call, *arguments = (thread / "syscall").read_text(encoding="ascii").split()
                if call == WAIT4 and (stub := stubs.get(int(arguments[0], 16))):
                    return stub
    return []
