"""CPU time of a process and everything in its session, from /proc (Linux; proc_pid_stat(5))."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def session_cpu_seconds(session: int) -> float:
    """User and system time, in seconds, of all processes of a session; its id is the pid of the one that began it."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == session:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS
