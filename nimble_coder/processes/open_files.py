"""How many files Triton and a gateway may have open: a connection is one, a stream two."""

import resource
import sys

from build_engine.exit_codes import ExitCode

WANTED = 1 << 16
LEAST = 256
"""Triton (2.51) needs some 100 to start. With 64 it corrupts its heap while it loads, and then neither ends nor is ever
ready."""


class OpenFilesError(RuntimeError):
    """Too few; says how many, and what to do."""

    exit_code = ExitCode.MACHINE


def open_files() -> int:
    """What `take_open_files` gives: 65,536, or the hard limit where that is lower; never less than there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        return max(soft, WANTED)
    return max(soft, min(hard, WANTED))


def limit() -> int:
    """How many files this process may have open now."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if most == resource.RLIM_INFINITY else most


def take_open_files() -> None:
    """Raises this process's limit, which those that it starts inherit, since a pod cannot set ulimits; raises
    `OpenFilesError` where that is too low."""
    if (files := open_files()) < LEAST:
        raise OpenFilesError(
            f"the hard limit of open files is {files}, Triton and a gateway need {LEAST} or more: raise it (ulimit -n, "
            f"docker run --ulimit nofile={WANTED}, systemd's LimitNOFILE)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
