"""SIGTERM, SIGQUIT and a closed terminal end a program the way Ctrl-C does, so every `with` block is left properly."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raises `KeyboardInterrupt` in the main thread for SIGINT, SIGTERM, SIGQUIT and SIGHUP while the block runs.

    SIGHUP stays ignored where it was, since `nohup` starts programs so that they live on without their terminal.
    SIGUSR1 and SIGUSR2, by which many programs are told to open their logs anew, do nothing, instead of ending this
    one on the spot.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts background jobs with it ignored, and `kill -INT` should work there as well.
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    # Not SIG_IGN, which children inherit.
    previous |= {number: signal.signal(number, lambda *_: None) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        # Python (3.11, as `python -m`) remembers an interrupt that came while it ran a text, as where a module defines
        # a named tuple, and ends by SIGINT then, whatever the exit code was to be. It forgets it where it runs another.
        exec("")  # noqa: S102
