"""A published artefact: the seam of the two stages. The build stage writes it, the runtime stage reads it."""

from dataclasses import dataclass
from pathlib import Path

from build_engine.guide_tokens import GUIDE_TOKENS
from build_engine.manifest import Manifest, ManifestError

ENGINE, PLAIN_ENGINE, TOKENIZER, REPOSITORY = "engine", "plain_engine", "tokenizer", "model_repository"
"""The parts of an artefact's directory, beside its manifest; the plain engine is there where it was asked for."""
ENGINE_MODEL, PLAIN_MODEL = "tensorrt_llm", "tensorrt_llm_plain"
"""The models of the repository that generate; the second is the plain engine's."""


@dataclass(frozen=True)
class Artifact:
    """What the runtime stage serves."""

    directory: Path
    manifest: Manifest

    @classmethod
    def open(cls, directory: Path) -> "Artifact":
        """Opens a finished artefact; raises `ManifestError` where it is absent, unfinished or damaged."""
        if directory.name.startswith("."):
            raise ManifestError(f"{directory} is the draft of a build that was not finished; run build-engine")
        manifest = Manifest.read(directory)
        manifest.check_sizes(directory)
        return cls(directory, manifest)

    @property
    def repository(self) -> Path:
        return self.directory / REPOSITORY

    @property
    def engine(self) -> Path:
        return self.directory / ENGINE

    @property
    def tokenizer(self) -> Path:
        return self.directory / TOKENIZER

    @property
    def has_companion(self) -> bool:
        """Whether there is a second engine that samples, since the first decodes greedily."""
        return (self.directory / PLAIN_ENGINE).is_dir()

    @property
    def guide_tokens(self) -> Path | None:
        """What guides the TensorRT engine that decodes plainly, where there is one and it was built for it."""
        path = self.tokenizer / GUIDE_TOKENS
        return path if path.is_file() else None

    @property
    def engine_models(self) -> tuple[str, ...]:
        """Names of the repository's models that generate."""
        return (ENGINE_MODEL, PLAIN_MODEL) if self.has_companion else (ENGINE_MODEL,)
