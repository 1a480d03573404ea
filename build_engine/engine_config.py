"""An engine directory's `config.json`, in TensorRT-LLM's shape whatever the engine's kind.

Layout: `{version, pretrained_config, build_config}` as TensorRT-LLM 0.19 writes it (tensorrt_llm/builder.py) and its
C++ loader reads it (gptJsonConfig.cpp). `build_config.max_seq_len` includes the draft tokens there, so it does here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.checkpoint import ModelShape
from build_engine.exit_codes import ExitCode
from build_engine.precision import INT8, PRECISIONS
from build_engine.profiles import Profile

TORCH_ENGINE = "torch-2"
"""The portable engine's `version`: changes whenever the layout of its weights does, so that no new one is taken for an
old one by a program that does not know it."""
TORCH_ENGINES = (TORCH_ENGINE, "torch-1")
"""Those that the portable engine reads. torch-1 has its matrices in rows, not packed."""
WEIGHTS = "rank0.safetensors"
"""The portable engine's file of weights, beside its `config.json`."""
LOOKAHEAD_DECODING = 8
"""`speculative_decoding_mode` of a lookahead engine (SpeculativeDecodingMode in TensorRT-LLM)."""
PLAIN_DECODING = 1
"""`speculative_decoding_mode` of an engine without speculation."""
GPUS_PER_NODE = 8
"""What TensorRT-LLM takes where `mapping` does not say it (worldConfig.h); rank R has the GPU R modulo that number."""


class EngineConfigError(ValueError):
    """An engine directory whose `config.json` is absent, damaged, or not what was asked for."""

    exit_code = ExitCode.BUILD


@dataclass(frozen=True)
class EngineConfig:
    """What a runtime must know of an engine. Lengths are in tokens, draft tokens not counted."""

    version: str
    shape: ModelShape
    dtype: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_draft_len: int
    tensor_parallel: int
    quant_algo: str | None = None
    """`FP8`, `INT8` or `INT4` for quantised weights."""
    kv_cache_quant_algo: str | None = None
    """`FP8` of a TensorRT engine, `INT8` of a portable one, or what it computes in."""
    gpus_per_node: int = GPUS_PER_NODE

    @property
    def kv_cache_dtype(self) -> str:
        """Of the portable engine's keys and values."""
        return INT8 if self.kv_cache_quant_algo == INT8.upper() else self.dtype

    @property
    def nodes(self) -> int:
        """Machines that its ranks are spread over."""
        return -(-self.tensor_parallel // self.gpus_per_node)

    @property
    def speculative_decoding_mode(self) -> int:
        return LOOKAHEAD_DECODING if self.max_draft_len else PLAIN_DECODING

    @classmethod
    def of(cls, profile: Profile, shape: ModelShape, version: str) -> "EngineConfig":
        """The configuration that building `profile` from a model of `shape` leads to."""
        return cls(
            version=version,
            shape=shape,
            dtype=PRECISIONS[profile.precision].dtype,
            max_batch_size=profile.max_batch_size,
            max_input_len=profile.max_input_len,
            max_seq_len=profile.max_seq_len,
            max_num_tokens=profile.engine_num_tokens if profile.engine == "tensorrt" else profile.max_num_tokens,
            max_draft_len=profile.lookahead.max_draft_tokens,
            tensor_parallel=profile.tensor_parallel,
            quant_algo=PRECISIONS[profile.precision].quant_algo,
            kv_cache_quant_algo="FP8" if profile.fp8_kv_cache else INT8.upper() if profile.int8_kv_cache else None,
        )

    @classmethod
    def read(cls, engine_dir: Path) -> "EngineConfig":
        """Reads `engine_dir/config.json`; raises `EngineConfigError` where it is damaged or contradicts itself."""
        path = engine_dir / "config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls._from_json(content)
        except OSError as error:
            raise EngineConfigError(f"no engine at {engine_dir}: {error.strerror}; run build-engine") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, EngineConfigError):
                raise
            raise EngineConfigError(f"{path} is damaged ({error!r}); build the engine again") from None

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> "EngineConfig":
        model, build = content["pretrained_config"], content["build_config"]
        mode, draft = build["speculative_decoding_mode"], build["max_draft_len"]
        if mode != (LOOKAHEAD_DECODING if draft else PLAIN_DECODING):
            raise EngineConfigError(
                f"speculative_decoding_mode is {mode} with max_draft_len {draft}: a lookahead engine has "
                f"{LOOKAHEAD_DECODING} and draft tokens, a plain one {PLAIN_DECODING} and none; build the engine again"
            )
        quantization = model.get("quantization") or {}
        shape = ModelShape(
            vocab_size=model["vocab_size"],
            hidden_size=model["hidden_size"],
            intermediate_size=model["intermediate_size"],
            num_hidden_layers=model["num_hidden_layers"],
            num_attention_heads=model["num_attention_heads"],
            num_key_value_heads=model["num_key_value_heads"],
            head_dim=model["head_size"],
            rms_norm_eps=model["norm_epsilon"],
            rope_theta=model["rotary_base"],
            max_position_embeddings=model["max_position_embeddings"],
            tie_word_embeddings=model.get("tie_word_embeddings", False),  # TensorRT-LLM does not keep it
        )
        return cls(
            version=content["version"],
            shape=shape,
            dtype=model["dtype"],
            max_batch_size=build["max_batch_size"],
            max_input_len=build["max_input_len"],
            max_seq_len=build["max_seq_len"] - build["max_draft_len"],
            max_num_tokens=build["max_num_tokens"],
            max_draft_len=build["max_draft_len"],
            tensor_parallel=model["mapping"]["tp_size"],
            quant_algo=quantization.get("quant_algo"),
            kv_cache_quant_algo=quantization.get("kv_cache_quant_algo"),
            gpus_per_node=model["mapping"].get("gpus_per_node", GPUS_PER_NODE),
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        shape = self.shape
        return {
            "version": self.version,
            "pretrained_config": {
                "architecture": "Qwen2ForCausalLM",
                "dtype": self.dtype,
                "logits_dtype": "float32",
                "vocab_size": shape.vocab_size,
                "hidden_size": shape.hidden_size,
                "intermediate_size": shape.intermediate_size,
                "num_hidden_layers": shape.num_hidden_layers,
                "num_attention_heads": shape.num_attention_heads,
                "num_key_value_heads": shape.num_key_value_heads,
                "head_size": shape.head_dim,
                "norm_epsilon": shape.rms_norm_eps,
                "rotary_base": shape.rope_theta,
                "max_position_embeddings": shape.max_position_embeddings,
                "tie_word_embeddings": shape.tie_word_embeddings,
                "mapping": {"world_size": self.tensor_parallel, "tp_size": self.tensor_parallel, "pp_size": 1},
                "quantization": {"quant_algo": self.quant_algo, "kv_cache_quant_algo": self.kv_cache_quant_algo},
            },
            "build_config": {
                "max_batch_size": self.max_batch_size,
                "max_beam_width": 1,
                "max_input_len": self.max_input_len,
                "max_seq_len": self.max_seq_len + self.max_draft_len,
                "max_num_tokens": self.max_num_tokens,
                "max_draft_len": self.max_draft_len,
                "speculative_decoding_mode": self.speculative_decoding_mode,
                "kv_cache_type": "CONTINUOUS",
            },
        }

    def write(self, engine_dir: Path) -> None:
        """Writes `engine_dir/config.json`."""
        (engine_dir / "config.json").write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
