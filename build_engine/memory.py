"""What an engine needs of one GPU's memory, computed from the model's shape and the engine's limits.

weights + activations + logits are fixed when the engine is built; the KV cache takes `kv_cache_fraction` of what is
free after those. All sizes are bytes per GPU.
"""

from dataclasses import dataclass, replace
from math import ceil

from build_engine.checkpoint import ModelShape
from build_engine.lookahead import PLAIN
from build_engine.precision import FORMAT_BYTES, INT8, PRECISIONS, kept_bytes
from build_engine.profiles import Profile

MIB, GIB = 1 << 20, 1 << 30

RUNTIME_RESERVE = GIB
"""CUDA context, cuBLAS and NCCL workspaces, decoder state: an allowance, which docs/gpu-checklist.md measures."""


@dataclass(frozen=True)
class MemoryPlan:
    """One rank's share."""

    weights: int
    activations: int
    logits: int
    kv_per_token: int
    kv_cache_fraction: float
    tokens_per_sequence: int
    """Of a sequence of full length: prompt, output and the draft tokens reserved behind them."""

    @property
    def fixed(self) -> int:
        """Everything but the KV cache."""
        return self.weights + self.activations + self.logits + RUNTIME_RESERVE

    @property
    def required(self) -> int:
        """The least free memory with which one sequence of full length can be served."""
        return self.fixed + ceil(self.kv_per_token * self.tokens_per_sequence / self.kv_cache_fraction)

    def kv_tokens(self, free: int) -> int:
        """Tokens that the KV cache holds on a GPU with so much free memory before the engine is loaded."""
        return max(0, int((free - self.fixed) * self.kv_cache_fraction)) // self.kv_per_token

    def sequences(self, free: int) -> float:
        """Sequences of full length that the KV cache holds at once."""
        return self.kv_tokens(free) / self.tokens_per_sequence


@dataclass(frozen=True)
class CompanionPlan:
    """One rank's share of an engine with its companion beside it: one that decodes plainly, for requests that sample.

    Each has half of the KV cache. The share cannot be a fraction: TensorRT-LLM takes it of what is free when a model is
    loaded, and Triton loads two at once.
    """

    engine: MemoryPlan
    plain: MemoryPlan

    @property
    def fixed(self) -> int:
        """Everything but the KV caches."""
        return self.engine.fixed + self.plain.fixed - RUNTIME_RESERVE

    @property
    def required(self) -> int:
        """The least free memory with which each engine can serve one sequence of full length."""
        tokens = 2 * self.engine.tokens_per_sequence
        return self.fixed + ceil(self.engine.kv_per_token * tokens / self.engine.kv_cache_fraction)

    def kv_tokens(self, free: int) -> int:
        """Tokens that either KV cache holds on a GPU with so much free memory before the engines are loaded."""
        kept = max(0, int((free - self.fixed) * self.engine.kv_cache_fraction))
        return kept // (2 * self.engine.kv_per_token)


def plan_companion(profile: Profile, shape: ModelShape) -> CompanionPlan:
    """The memory that `profile` needs where it is built with a companion."""
    return CompanionPlan(plan_memory(profile, shape), plan_memory(replace(profile, lookahead=PLAIN), shape))


def plan_memory(profile: Profile, shape: ModelShape) -> MemoryPlan:
    """The memory that `profile` needs for a model of `shape`."""
    draft = profile.lookahead.max_draft_tokens
    kv_heads = ceil(shape.num_key_value_heads / profile.tensor_parallel)  # replicated where there are fewer than ranks
    kv_per_token = shape.num_hidden_layers * kv_heads * kv_bytes(profile, shape.head_dim)
    return MemoryPlan(
        weights=weight_bytes(profile, shape),
        activations=activation_bytes(profile, shape),
        # Every draft token of every request gets its logits, in fp32.
        logits=profile.max_batch_size * (draft + 1) * shape.vocab_size * 4,
        kv_per_token=kv_per_token,
        kv_cache_fraction=profile.kv_cache_fraction,
        tokens_per_sequence=profile.max_seq_len + draft,
    )


def kv_bytes(profile: Profile, head_dim: int) -> int:
    """Bytes of one token's key and value in a head. They stay in 16 bits beside fp8 weights."""
    if profile.fp8_kv_cache:
        return 2 * head_dim
    return kept_bytes(INT8 if profile.int8_kv_cache else PRECISIONS[profile.precision].dtype, head_dim)


def weight_bytes(profile: Profile, shape: ModelShape) -> int:
    """A rank's weights: linear layers are split, the embedding and the norms are on every rank.

    A tied head is stored a second time by TensorRT-LLM's conversion.
    """
    tp, numbers = profile.tensor_parallel, PRECISIONS[profile.precision]
    h, d = shape.hidden_size, shape.head_dim
    kv_heads = ceil(shape.num_key_value_heads / tp)
    qkv = (shape.num_attention_heads / tp + 2 * kv_heads) * d
    others = h * d * shape.num_attention_heads / tp + 3 * h * shape.intermediate_size / tp
    matrices = h * qkv * FORMAT_BYTES[numbers.qkv] + others * FORMAT_BYTES[numbers.matrices]
    per_layer = matrices + (2 * h + qkv) * numbers.dtype_bytes
    heads = 1 if profile.is_portable and shape.tie_word_embeddings else 1 + 1 / tp
    head = heads * shape.vocab_size * h * FORMAT_BYTES[numbers.head]
    return int(shape.num_hidden_layers * per_layer + head + h * numbers.dtype_bytes)


def activation_bytes(profile: Profile, shape: ModelShape) -> int:
    """The tensors alive at once in the wider half of a layer, for as many tokens as one forward pass may hold.

    Attention: residual, normed input, Q K V, output. MLP: residual, normed input, gate and up, their product.
    """
    tp = profile.tensor_parallel
    heads = shape.num_attention_heads + ceil(shape.num_key_value_heads / tp) * 2 * tp
    attention = (heads + shape.num_attention_heads) * shape.head_dim / tp
    width = 2 * shape.hidden_size + max(attention, 3 * shape.intermediate_size / tp)
    tokens = profile.engine_num_tokens if profile.engine == "tensorrt" else profile.max_num_tokens
    return int(tokens * width * PRECISIONS[profile.precision].dtype_bytes)
