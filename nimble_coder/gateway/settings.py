"""The gateway's settings, read once from the environment at the edge of the process."""

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """Every setting is a `NIMBLE_*` environment variable; lists are comma-separated."""

    model_config = SettingsConfigDict(env_prefix="NIMBLE_", extra="ignore")

    artifact: Path
    """The artefact that Triton serves: its limits, its tokenizer and its name come from there."""
    policy: Path | None = None
    """What `nimble-coder tune` wrote: (w,n,g) by load. The one in the artefact's cache, if any, where unset."""
    triton_host: str = "127.0.0.1"
    triton_http_port: int
    triton_grpc_port: int
    triton_metrics_port: int

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002

    served_model_names: Annotated[str, NoDecode] = ""
    """Names a request may call the model; the first is its id. The profile's name and `qwen2.5-coder` where empty."""
    api_keys: SecretStr = SecretStr("")
    """Keys of clients, comma-separated. No key at all, here or in the file, leaves the service open."""
    api_keys_file: Path | None = None
    """One key a line, `#` starts a comment; read again when the file changes."""
    admin_key: SecretStr = SecretStr("")
    """The key for administrative KServe calls; without one they are refused."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    cors_origins: Annotated[str, NoDecode] = ""
    """Origins that a browser may call from, comma-separated, `*` for any. None by default."""

    max_body_bytes: int = Field(default=8 << 20, ge=1024)
    max_concurrent_requests: int = Field(default=0, ge=0)
    """Generations in flight or queued in all workers; 0 takes the engine's batch and its queue."""
    requests_per_minute: int = Field(default=0, ge=0)
    """Per key (per client address where there are no keys); 0 is unlimited."""
    default_max_tokens: int = Field(default=16, ge=1)
    """For `/v1/completions`, as OpenAI's; chat takes what room there is."""
    fim_max_tokens: int = Field(default=128, ge=1)
    """For infill requests that do not say."""
    strict_sampling: bool = False
    """Refuse what greedy decoding cannot honour instead of ignoring it."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """How long running requests may take after SIGTERM."""
    log_level: str = "info"
    prometheus_multiproc_dir: Path | None = Field(default=None, validation_alias="PROMETHEUS_MULTIPROC_DIR")
    """Where several workers keep their metrics and limits together (the variable is prometheus-client's own)."""

    otel_endpoint: str = Field(
        default="",
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    """Turns tracing on (the variables are OpenTelemetry's own, and its exporter reads them too)."""
    otel_service_name: str = Field(default="nimble-coder", validation_alias="OTEL_SERVICE_NAME")

    @property
    def names(self) -> list[str]:
        return split(self.served_model_names)

    @property
    def origins(self) -> list[str]:
        return split(self.cors_origins)

    @property
    def triton_grpc(self) -> str:
        return f"{self.triton_host}:{self.triton_grpc_port}"

    @property
    def triton_http(self) -> str:
        return f"http://{self.triton_host}:{self.triton_http_port}"

    @property
    def triton_metrics(self) -> str:
        return f"http://{self.triton_host}:{self.triton_metrics_port}/metrics"


def split(text: str) -> list[str]:
    """The parts of a comma-separated list, empty ones left out."""
    return [part.strip() for part in text.split(",") if part.strip()]
