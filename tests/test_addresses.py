"""Ports for Triton are chosen some seconds before it listens on them, and nothing else may get them meanwhile."""

import socket

from nimble_coder.processes.triton import GIVEN_TO_NOBODY, Addresses


def test_free_ports_are_none_that_connections_are_given() -> None:
    addresses = Addresses.free()
    ports = {addresses.http_port, addresses.grpc_port, addresses.metrics_port}
    assert len(ports) == 3
    assert all(port in GIVEN_TO_NOBODY for port in ports)
    addresses.check_free()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        assert connection.getsockname()[1] not in GIVEN_TO_NOBODY  # or another range is given here
