"""The settings themselves: each is declared once, here or in the gateway's part."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, SecretStr, field_validator

from nimble_coder.environment import DEFAULT_CACHE
from nimble_coder.gateway.settings import GatewayOptions
from nimble_coder.processes.triton import Addresses

TlsMode = Literal["disabled", "tls", "mtls"]


class Settings(GatewayOptions):
    """Everything a person may set about the service."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", frozen=True)

    cache_path: Path = Path(DEFAULT_CACHE)
    """Where artefacts and checkpoints are kept; may be read-only where everything is there already."""
    model_profile: str | None = None
    """Name or id of a profile, or `auto`."""
    model_name: str | None = None
    """A model, where no profile is named; or where it is: an artefact, a model store, a checkpoint, or a GGUF file."""
    model_revision: str = "main"
    """Branch, tag or commit of the model on the hub, where it has to be downloaded."""
    baked_artifact: Path | None = None
    """An artefact that an image carries, served where nothing else was chosen."""
    build_on_start: bool = True
    """Build an engine that is not in the cache; otherwise end with exit code 10."""
    tensor_parallel_size: int | None = Field(default=None, ge=1)
    """GPUs of one engine: narrows the automatic choice, and what is served must have it."""

    kv_cache_reuse: bool | None = None
    """Keep the keys and values of prompts for those that begin alike."""
    kv_cache_fraction: float | None = Field(default=None, gt=0, le=1)
    """Share of the memory that is free beside the weights (a GPU's, or the machine's), for keys and values."""
    engine_threads: int | None = Field(default=None, ge=1)
    """Threads of the portable engine's step on a CPU, at most one a processor; by default those that are left."""
    engine_device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the portable engine runs on; `auto` takes a GPU where PyTorch finds one, `cuda` ends where there is none."""
    drafts_path: Path | None = None
    """Keep what shared drafts are made of over a restart, here and in the clear; where unset in memory alone."""
    workers: int = Field(default=1, ge=1, le=64)
    """Gateway processes on the same ports."""
    startup_seconds: float = Field(default=1800.0, gt=0)
    """How long loading may take, until the first generation."""
    expose_triton: bool = False
    """Let Triton listen on `host` too, unguarded: its model control, shared memory and trace APIs are open then."""
    tls_mode: TlsMode | None = None
    """`disabled`, `tls` or `mtls`; as the files that are given say where it is not set."""

    hf_token: SecretStr = SecretStr("")
    """Token for gated or private models."""
    hf_endpoint: str | None = None
    """A mirror of the hub."""
    hf_hub_offline: bool = False
    """Download nothing."""

    @field_validator("tls_mode", mode="before")
    @classmethod
    def _lower_mode(cls, value: Any) -> Any:
        """NIM writes modes in capitals."""
        return value.lower() if isinstance(value, str) else value

    @property
    def listening(self) -> Addresses:
        """Where the gateway listens."""
        return Addresses(self.http_port, self.grpc_port, self.metrics_port, self.host)

    @property
    def drafts_directory(self) -> Path | None:
        """Where the texts behind shared drafts are kept, whatever directory the engine runs in."""
        return self.drafts_path.expanduser().absolute() if self.drafts_path else None

    @property
    def uses_tls(self) -> bool:
        return self.tls_mode != "disabled" and self.tls_certificate is not None

    @property
    def chosen_profile(self) -> str | None:
        """The profile that a person named; None leaves the choice to the service."""
        return self.model_profile if self.model_profile not in (None, "auto", "default") else None
