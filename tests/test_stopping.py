"""Which signals end a program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SIGNALLED = """
import os, signal
from nimble_coder.processes.stopping import stop_signals
try:
    with stop_signals(), stop_signals():
        os.kill(os.getpid(), signal.{})
        print("goes on")
except KeyboardInterrupt:
    print("ended")
"""


@pytest.mark.parametrize(
    ("prefix", "name", "says"),
    [
        (("env", "--default-signal=HUP"), "SIGHUP", "ended"),  # which it ignores where this runs under nohup
        ((), "SIGQUIT", "ended"),
        ((), "SIGUSR1", "goes on"),
        ((), "SIGUSR2", "goes on"),
        (("nohup",), "SIGHUP", "goes on"),
        (("nohup",), "SIGTERM", "ended"),
        (("nohup",), "SIGINT", "ended"),
    ],
)
def test_what_ends_a_program_and_what_does_not(prefix: tuple[str, ...], name: str, says: str) -> None:
    command = [*prefix, sys.executable, "-c", SIGNALLED.format(name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == says


INTERRUPTED = """
import os, signal, sys
from nimble_coder.processes.stopping import stop_signals
with stop_signals():
    try:
        exec("os.kill(os.getpid(), signal.SIGTERM)")
    except KeyboardInterrupt:
        pass
sys.exit(3)
"""


def test_an_interrupt_at_an_odd_moment_leaves_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, env=environment, check=False, timeout=60)
    assert done.returncode == 3
