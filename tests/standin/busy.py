"""A machine that has no room for the moment."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_file_to_open() -> Iterator[None]:
    """This process can open no file while the block runs, as under very many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
