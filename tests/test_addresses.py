"""Ports for Triton are chosen some seconds before it listens on them, and nothing else may get them meanwhile."""

import gc
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from build_engine.exit_codes import ExitCode
from nimble_coder.gateway.server import listen
from nimble_coder.processes import ports
from nimble_coder.processes.errors import HostError
from nimble_coder.processes.ports import GIVEN_TO_NOBODY, HeldPorts
from nimble_coder.processes.triton import Addresses

CHOOSE = """
import sys
from nimble_coder.processes import ports
ports.GIVEN_TO_NOBODY = range(int(sys.argv[1]), int(sys.argv[1]) + 2)
print(ports.HeldPorts(1).ports[0])
"""


@pytest.fixture
def two_ports(monkeypatch: pytest.MonkeyPatch) -> range:
    """The only ones that can be chosen; both are free."""
    while True:
        monkeypatch.setattr(ports, "GIVEN_TO_NOBODY", GIVEN_TO_NOBODY)
        start = HeldPorts(1).ports[0]
        monkeypatch.setattr(ports, "GIVEN_TO_NOBODY", range(start, start + 2))
        with suppress(OSError):
            HeldPorts(2)
            return ports.GIVEN_TO_NOBODY


def test_free_ports_are_none_that_connections_are_given() -> None:
    addresses = Addresses.free()
    chosen = {addresses.http_port, addresses.grpc_port, addresses.metrics_port}
    assert len(chosen) == 3
    assert all(port in GIVEN_TO_NOBODY for port in chosen)
    addresses.check_free()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        assert connection.getsockname()[1] not in GIVEN_TO_NOBODY  # or another range is given here


@pytest.mark.parametrize("host", ["203.0.113.7", "no host"])  # the first is for documents (RFC 5737)
def test_a_host_that_is_none_of_this_machine_is_not_told_to_be_a_taken_port(host: str) -> None:
    with pytest.raises(HostError, match=f"{host} is no address of this machine") as caught:
        Addresses(host=host).check_free()
    assert caught.value.exit_code == ExitCode.ASKED


def test_a_port_that_is_chosen_is_free_for_nobody_else_until_it_is_let_go(two_ports: range) -> None:
    held = HeldPorts(1)
    command = [sys.executable, "-c", CHOOSE, str(two_ports[0])]
    others = {int(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(6)}
    assert others == set(two_ports) - set(held.ports)
    with pytest.raises(OSError, match=f"fewer than 2 ports from {two_ports[0]} to {two_ports[1]} are free"):
        HeldPorts(2)
    del held
    gc.collect()
    assert set(HeldPorts(2).ports) == set(two_ports)


def test_a_port_that_cannot_be_shared_once_it_is_bound_is_chosen_and_left_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str, port: int) -> None:
        raise OSError

    monkeypatch.setattr(ports, "check_listenable", refuse)
    (port,) = HeldPorts(1).ports
    with socket.socket() as alone:
        alone.bind(("127.0.0.1", port))


def test_whoever_it_was_chosen_for_listens_on_it() -> None:
    held = HeldPorts(2)
    with socket.create_server(("127.0.0.1", held.ports[0])) as triton, listen("127.0.0.1", held.ports[1]) as gateway:
        gateway.listen()
        for listening in (triton, gateway):
            with socket.create_connection(listening.getsockname()) as client:
                connection, caller = listening.accept()
                with connection:
                    assert caller == client.getsockname()
