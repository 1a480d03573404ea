"""The Qwen2.5-Coder models that are built and served: six sizes, each as base and Instruct model.

Shapes: `config.json` of the published checkpoints. They are needed before anything is downloaded, to say what fits
where; a downloaded checkpoint's own `config.json` is what an engine is made from.
"""

from dataclasses import dataclass

from build_engine.checkpoint import ModelShape
from build_engine.exit_codes import ExitCode


class CatalogError(ValueError):
    """A model that is not in the catalogue; says which are."""

    exit_code = ExitCode.ASKED


@dataclass(frozen=True)
class Model:
    """One published checkpoint."""

    repo: str
    """Its id on the hub."""
    size: str
    shape: ModelShape
    license: str
    """Of the weights, as their model card states it; only the 3B size is not for commercial use."""

    @property
    def name(self) -> str:
        """Its name in profiles, for example `qwen2.5-coder-7b-instruct`."""
        return self.repo.rsplit("/", 1)[-1].lower()

    @property
    def is_instruct(self) -> bool:
        return self.repo.endswith("-Instruct")


def _shape(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> ModelShape:
    small = hidden <= 2048  # these share the embedding with the head, and pad the vocabulary less
    return ModelShape(
        vocab_size=151936 if small else 152064,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        # The technical report prints 128 for every size; 0.5B has 14 heads in 896 dimensions.
        head_dim=hidden // heads,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        max_position_embeddings=32768,
        tie_word_embeddings=small,
    )


SHAPES = {
    "0.5b": _shape(896, 24, 14, 2, 4864),
    "1.5b": _shape(1536, 28, 12, 2, 8960),
    "3b": _shape(2048, 36, 16, 2, 11008),
    "7b": _shape(3584, 28, 28, 4, 18944),
    "14b": _shape(5120, 48, 40, 8, 13824),
    "32b": _shape(5120, 64, 40, 8, 27648),
}

MODELS = {
    model.name: model
    for size, shape in SHAPES.items()
    for kind in ("", "-Instruct")
    for model in (
        Model(
            repo=f"Qwen/Qwen2.5-Coder-{size.upper()}{kind}",
            size=size,
            shape=shape,
            license="Qwen-Research" if size == "3b" else "Apache-2.0",
        ),
    )
}
"""By name, smallest first."""


def find_model(name: str) -> Model:
    """The model of that name or hub id; raises `CatalogError` that lists the known ones."""
    wanted = name.rsplit("/", 1)[-1].lower()
    try:
        return MODELS[wanted]
    except KeyError:
        raise CatalogError(f"there is no model {name!r}; known models: {', '.join(MODELS)}") from None
