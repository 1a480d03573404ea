"""Connections to Triton's gRPC port by grpcio, for what is not worth `http2.py`."""

from typing import Any

import grpc

from nimble_coder.gateway.settings import GatewaySettings

SOONEST_MS, LATEST_MS = 100, 250
"""Between two attempts to connect. grpcio waits 1 s, then 1.6 times as long each time, up to 2 minutes, and fails every
call meanwhile: of a Triton that loads for a minute it would see half a minute late that it is there."""
UNLIMITED = -1
"""The gateway's own limits stand at its edge."""


def grpc_channel(settings: GatewaySettings) -> Any:
    """A `grpc.aio.Channel` (grpcio has no types) that finds Triton soon once it listens, for messages of any size."""
    options = {
        "grpc.initial_reconnect_backoff_ms": SOONEST_MS,
        "grpc.max_reconnect_backoff_ms": LATEST_MS,
        "grpc.max_receive_message_length": UNLIMITED,
        "grpc.max_send_message_length": UNLIMITED,
    }
    return grpc.aio.insecure_channel(settings.triton_grpc, list(options.items()))
