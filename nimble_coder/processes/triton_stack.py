"""How much stack Triton's threads get, and how large a body over HTTP is safe with it.

Triton's HTTP front (2.51, `EVRequestToJson` and its like in `http_server.cc`) takes 16 bytes of its thread's stack (an
`evbuffer_iovec`) for each piece in which a body has come, with `alloca`: with the usual 8 MiB a body in a million
pieces ends the process with SIGSEGV. A pod cannot set ulimits, so whoever starts Triton raises the limit itself.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

STACK = 64 << 20
"""Bytes; what NVIDIA's containers ask for, `--ulimit stack=67108864`."""
PIECE = 16
"""Bytes of stack for one piece of a body, which may be a single byte."""


def stack_bytes() -> int:
    """What a Triton that is started here gets: 64 MiB, more where the limit is, less where the hard one is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    # Without any limit the C library gives threads 2 MiB, so that is none to leave as it is.
    wanted = STACK if soft == resource.RLIM_INFINITY else max(soft, STACK)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def largest_body() -> int:
    """Bytes of a body whose pieces take at most half of the stack, however many they are; 2 MiB of 64."""
    return min(stack_bytes(), STACK) // (2 * PIECE)


def shortage() -> str:
    """What is missing of the stack, and what to do; empty where it is enough."""
    if stack_bytes() >= STACK:
        return ""
    return (
        f"the hard limit of the stack is {stack_bytes()} bytes, Triton needs {STACK}: under /v2 bodies above "
        f"{largest_body()} bytes are refused; start with --ulimit stack={STACK}"
    )


@contextmanager
def enough_stack() -> Iterator[None]:
    """Processes that are started in the block get `stack_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (stack_bytes(), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)
