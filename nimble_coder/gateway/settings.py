"""The gateway's settings: what a person may choose, and what the supervisor adds when it starts one."""

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from nimble_coder.processes.ports import in_url

LogLevel = Literal["trace", "debug", "info", "warning", "error", "critical"]


class GatewayOptions(BaseModel):
    """The gateway's part of the service's settings (`nimble_coder.settings`). Lists are comma-separated."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    artifact: Path | None = None
    """The artefact to serve: a directory that build-engine printed or create-model-store wrote."""
    share_drafts: bool = True
    """Draft from what earlier requests of the same API key, or without keys of the same address, held (CPUs)."""
    policy: Path | None = None
    """What `nimble-coder tune` wrote: (w,n,g) by load. The one in the artefact's cache, if any, where unset."""

    host: str = "127.0.0.1"
    """The address to listen on; the images set 0.0.0.0."""
    http_port: int = Field(default=8000, ge=1, le=65535)
    """OpenAI, fill-in-the-middle, NIM and KServe over HTTP."""
    grpc_port: int = Field(default=8001, ge=1, le=65535)
    """KServe over gRPC."""
    metrics_port: int = Field(default=8002, ge=1, le=65535)
    """Prometheus metrics and health, without keys and TLS."""
    metrics_on_http_port: bool = True
    """`/metrics` and `/v1/metrics` on the HTTP port too, where they need no key."""
    metrics_per_key: bool = False
    """Count generations and tokens of each API key too, under the first 12 digits of the key's SHA-256."""
    triton_host: str = "127.0.0.1"
    """Where Triton listens."""
    triton_http_port: int = Field(default=0, ge=0, le=65535)
    """Triton's own HTTP port; 0 takes a free one."""
    triton_grpc_port: int = Field(default=0, ge=0, le=65535)
    """Triton's own gRPC port; 0 takes a free one."""
    triton_metrics_port: int = Field(default=0, ge=0, le=65535)
    """Triton's own metrics port; 0 takes a free one."""

    served_model_names: str = ""
    """Names a request may call the model, its id first; where empty the model's, the profile's and `qwen2.5-coder`."""
    accept_any_model_name: bool = False
    """Answer requests for any model with the one that is served, for recipes that send a placeholder."""
    max_model_len: int | None = Field(default=None, ge=2)
    """Longest prompt plus answer in tokens, where less than the engine's is wanted."""
    api_keys: SecretStr = SecretStr("")
    """Keys of clients, comma-separated. Without them and without a file of them the service is open to everybody."""
    api_keys_file: Path | None = None
    """One key per line, `#` starts a comment; read again when it changes. While it holds none, nobody has access."""
    admin_key: SecretStr = SecretStr("")
    """The key for administrative KServe calls; without one they are refused."""
    tls_certificate: Path | None = None
    """PEM file with the certificate and its chain: TLS on HTTP and gRPC."""
    tls_key: Path | None = None
    """PEM file with the certificate's key."""
    tls_client_ca: Path | None = None
    """PEM file with the authorities whose certificates clients must show (mTLS)."""
    cors_origins: str = ""
    """Origins that a browser may call from, comma-separated, `*` for any. None by default."""

    max_body_bytes: int = Field(default=8 << 20, ge=1024, le=(1 << 31) - 1)
    """Larger requests get 413."""
    max_concurrent_requests: int = Field(default=0, ge=0)
    """Generations in flight or queued; 0: the engine's batch and queue. One of several keys gets three quarters."""
    requests_per_minute: int = Field(default=0, ge=0)
    """Per key (per client address where there are no keys); 0 is unlimited."""
    default_max_tokens: int = Field(default=16, ge=1)
    """For `/v1/completions`, as OpenAI's; chat takes what room there is."""
    fim_max_tokens: int = Field(default=128, ge=1)
    """For infill requests that do not say."""
    strict_sampling: bool = False
    """Refuse every field of a request that is not honoured instead of ignoring it."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """How long running requests may take after SIGTERM."""
    hang_seconds: float = Field(default=120.0, gt=0)
    """How long an engine that has work may stand still before the service no longer calls itself live."""
    log_level: LogLevel = "info"
    """Prompts, answers and keys are in no log at any level."""
    jsonl_logging: bool = False
    """One JSON object per line instead of text."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        """NIM writes levels in capitals, and DEFAULT for what is usual."""
        text = value.lower() if isinstance(value, str) else value
        return "info" if text == "default" else text

    @field_validator("*", mode="before")
    @classmethod
    def _is_named(cls, value: Any, info: ValidationInfo) -> Any:
        """An empty path would be the directory one stands in: `serve "$(nimble-coder build-engine)"`, where that has
        failed."""
        if value == "" and cls.model_fields[str(info.field_name)].annotation in (Path, Path | None):
            raise ValueError("a path, or not given at all")
        return value

    @field_validator("api_keys", "admin_key")
    @classmethod
    def _has_keys(cls, value: SecretStr) -> SecretStr:
        """A value of blanks and commas was meant as a key, and would leave the service open."""
        text = value.get_secret_value()
        if text and not split(text):
            raise ValueError("a key, or not set at all: it holds none")
        if not all(map(is_sendable, split(text))):
            raise ValueError("of printable ASCII, as headers are")
        return SecretStr(text.strip())

    @model_validator(mode="after")
    def _pairs(self) -> "GatewayOptions":
        """TLS needs certificate and key."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            absent = "NIMBLE_TLS_KEY" if self.tls_certificate else "NIMBLE_TLS_CERTIFICATE"
            raise ValueError(f"{absent} is not set, but its counterpart is: set both or none")
        return self

    @property
    def names(self) -> list[str]:
        return split(self.served_model_names)

    @property
    def origins(self) -> list[str]:
        return split(self.cors_origins)

    @property
    def triton_grpc(self) -> str:
        return f"{in_url(self.triton_host)}:{self.triton_grpc_port}"

    @property
    def triton_http(self) -> str:
        return f"http://{in_url(self.triton_host)}:{self.triton_http_port}"

    @property
    def triton_metrics(self) -> str:
        return f"http://{in_url(self.triton_host)}:{self.triton_metrics_port}/metrics"


class GatewaySettings(GatewayOptions, BaseSettings):
    """What one gateway process reads from its environment, `NIMBLE_*` each: by then everything has been found."""

    model_config = SettingsConfigDict(env_prefix="NIMBLE_", extra="ignore", env_ignore_empty=True)

    artifact: Path
    prometheus_multiproc_dir: Path | None = Field(default=None, validation_alias="PROMETHEUS_MULTIPROC_DIR")
    """Where several workers keep their metrics and limits together (the variable is prometheus-client's own)."""
    hold: Path | None = None
    """While this file is there the service is not ready: the start page still has the ports."""
    otel_endpoint: str = Field(
        default="",
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    """Turns tracing on (the variables are OpenTelemetry's own, and its exporter reads them too)."""
    otel_service_name: str = Field(default="nimble-coder", validation_alias="OTEL_SERVICE_NAME")


def split(text: str) -> list[str]:
    """The parts of a comma-separated list, empty ones left out."""
    return [part.strip() for part in text.split(",") if part.strip()]


def is_sendable(key: str) -> bool:
    """Whether a client can send it in a header."""
    return key.isascii() and key.isprintable()
