"""Whether files have changed since they were read."""

from pathlib import Path


def version_of(*files: Path | None) -> tuple[tuple[int, ...], ...]:
    """What changes when one of the files does, its permissions included; empty for one that is not there."""
    return tuple(_version(file) for file in files if file is not None)


def _version(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
