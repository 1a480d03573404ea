"""What a route's handler is given: the core, its health, and the way to Triton's own HTTP."""

from dataclasses import dataclass

from nimble_coder.gateway.health import Health
from nimble_coder.gateway.kserve.http_proxy import TritonHttp
from nimble_coder.gateway.service import Service


@dataclass(frozen=True)
class Front:
    """One of each per process."""

    service: Service
    health: Health
    triton: TritonHttp
