"""The environment variables of every setting; imports nothing of its own, so that every command can name them.

A setting `x` is `NIMBLE_X`, or the name that the whole field uses (`HF_TOKEN`). Those of NVIDIA NIM for LLMs 1.x and
2.x with the same meaning are understood as well. Sources: docs.nvidia.com/nim/large-language-models (1.10, 1.15 and
2.0.12, environment variables), and k8s-nim-operator, api/apps/v1alpha1/nimservice_types.go.
"""

from collections.abc import Collection, Mapping

ESTABLISHED = {"hf_token": "HF_TOKEN", "hf_endpoint": "HF_ENDPOINT", "hf_hub_offline": "HF_HUB_OFFLINE"}
"""Settings that have no `NIMBLE_` name, because huggingface_hub's own is known to everybody."""

ALIASES = {
    "cache_path": ("NIMBLE_CACHE", "NIM_CACHE_PATH"),
    "model_profile": ("NIM_MODEL_PROFILE",),
    "model_name": ("NIM_MODEL_NAME", "NIM_MODEL_PATH"),
    "served_model_names": ("NIM_SERVED_MODEL_NAME",),
    "http_port": ("NIM_SERVER_PORT", "NIM_HTTP_API_PORT"),
    "grpc_port": ("NIM_GRPC_API_PORT",),
    "triton_grpc_port": ("NIM_TRITON_GRPC_PORT",),
    "triton_metrics_port": ("NIM_TRITON_METRICS_PORT",),
    "log_level": ("NIM_LOG_LEVEL",),
    "jsonl_logging": ("NIM_JSONL_LOGGING",),
    "max_model_len": ("NIM_MAX_MODEL_LEN",),
    "tensor_parallel_size": ("NIM_TENSOR_PARALLEL_SIZE",),
    "kv_cache_reuse": ("NIM_ENABLE_KV_CACHE_REUSE",),
    "kv_cache_fraction": ("NIM_KVCACHE_PERCENT",),
    "tls_mode": ("NIM_SSL_MODE",),
    "tls_certificate": ("NIM_SSL_CERTS_PATH", "NIM_SSL_CERT_PATH"),
    "tls_key": ("NIM_SSL_KEY_PATH",),
    "tls_client_ca": ("NIM_SSL_CA_CERTS_PATH",),
    "cors_origins": ("NIM_CORS_ALLOW_ORIGINS",),
    "hf_hub_offline": ("NIM_DISABLE_MODEL_DOWNLOAD",),
}

DEFAULT_CACHE = "~/.cache/nimble-coder"
CONFIG_FILE = "NIMBLE_CONFIG"
CLIENTS = ("NIMBLE_URL", "NIMBLE_HTTP_URL", "NIMBLE_API_KEY", "NIMBLE_CA_FILE")
"""Read by `nimble-coder complete`."""

_ENGINE = "it is fixed when the engine is built: choose another profile, or build-engine with "
_ONE_ENGINE = "there is one engine, and no choice of backends"
_NO_LORA = "LoRA adapters are not served"
_ONE_NODE = "an engine on several nodes is told of them by its LeaderWorkerSet (docs/kubernetes.md)"
_NO_GUIDE = "the engine decides it: llguidance on the portable one, xgrammar on TensorRT's"
_TOOLS = "tools are always on, in Qwen's format"
_SPECULATION = "lookahead decoding is chosen with the profile, and per request with `lookahead`"
_CUSTOM_CODE = "no code of a model's repository is ever run"
_OTEL = "use OpenTelemetry's own OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME"
_NGC = "weights come from the Hugging Face hub: use HF_TOKEN, and HF_ENDPOINT for a mirror"
_DOWNLOAD = "huggingface_hub downloads: see its HF_* variables"
_HTTP = "the gateway decides this itself"

NO_EFFECT: dict[str, str] = {
    **dict.fromkeys(("NIM_MAX_NUM_SEQS", "NIM_MAX_BATCH_SIZE"), _ENGINE + "--max-batch-size"),
    "NIM_MAX_NUM_BATCHED_TOKENS": _ENGINE + "--max-num-tokens",
    "NIM_PRECISION": _ENGINE + "--precision",
    "NIM_PIPELINE_PARALLEL_SIZE": "engines are split by tensor parallelism only: use NIM_TENSOR_PARALLEL_SIZE",
    **dict.fromkeys(("NIM_FT_MODEL", "NIM_CUSTOM_MODEL_NAME"), "build it with build-engine --from, and serve its path"),
    **dict.fromkeys(
        ("NIM_MANIFEST_ALLOW_UNSAFE", "NIM_MANIFEST_PATH", "NIM_TAGS_SELECTOR"),
        "profiles are part of the release: list-model-profiles shows them",
    ),
    **dict.fromkeys(
        ("NIM_USE_TRTLLM_LEGACY_BACKEND", "NIM_USE_SGLANG", "NIM_PASSTHROUGH_ARGS", "NIM_TOKENIZER_MODE"), _ONE_ENGINE
    ),
    **dict.fromkeys(("NIM_FORCE_TRUST_REMOTE_CODE", "NIM_TRUST_CUSTOM_CODE"), _CUSTOM_CODE),
    "NIM_CHAT_TEMPLATE": "the model's own template is used: chat with /v1/completions for another",
    **dict.fromkeys(
        ("NIM_GPU_MEM_FRACTION", "NIM_NUM_KV_CACHE_SEQ_LENS", "NIM_RELAX_MEM_CONSTRAINTS", "NIM_LOW_MEMORY_MODE"),
        "use NIMBLE_KV_CACHE_FRACTION",
    ),
    **dict.fromkeys(
        ("NIM_ENABLE_KV_CACHE_HOST_OFFLOAD", "NIM_KV_CACHE_HOST_MEM_FRACTION"), "the KV cache is kept on the GPU only"
    ),
    "NIM_ENABLE_CHUNKED_PREFILL": "it is off with lookahead decoding in TensorRT-LLM, and on in the portable engine",
    **dict.fromkeys(
        ("NIM_STREAM_INTERVAL", "NIM_DISABLE_CUDA_GRAPH", "NIM_DISABLE_OVERLAP_SCHEDULING", "NIM_SCHEDULER_POLICY"),
        _ONE_ENGINE,
    ),
    "NIM_FORCE_DETERMINISTIC": "greedy decoding is the default: send no temperature",
    "NIM_ENABLE_WARMUP": "readiness always waits for a generation",
    **dict.fromkeys(("NIM_SPECDEC_ENABLE", "NIM_DRAFT_MODEL_PATH", "NIM_NUM_SPECULATIVE_TOKENS"), _SPECULATION),
    **dict.fromkeys(("NIM_GUIDED_DECODING_BACKEND", "NIM_CUSTOM_GUIDED_DECODING_BACKENDS"), _NO_GUIDE),
    **dict.fromkeys(("NIM_ENABLE_AUTO_TOOL_CHOICE", "NIM_TOOL_CALL_PARSER", "NIM_TOOL_PARSER_PLUGIN"), _TOOLS),
    "NIM_ENABLE_PROMPT_LOGPROBS": "who wants them sends `echo` and `logprobs`; the portable engine has them",
    **dict.fromkeys(
        ("NIM_REWARD_MODEL", "NIM_REWARD_MODEL_STRING", "NIM_REWARD_LOGITS_RANGE"), "there are no reward models"
    ),
    **dict.fromkeys(
        ("NIM_PEFT_SOURCE", "NIM_PEFT_REFRESH_INTERVAL", "NIM_MAX_GPU_LORAS", "NIM_MAX_CPU_LORAS", "NIM_MAX_LORA_RANK"),
        _NO_LORA,
    ),
    "NIM_HEALTH_PORT": "health is on the metrics port too: use NIMBLE_METRICS_PORT",
    "NIM_TRITON_LOG_VERBOSE": "use NIM_LOG_LEVEL=debug",
    "NIM_SAGEMAKER_MODE": "SageMaker's protocol is not served",
    **dict.fromkeys(("NIM_CORS_ALLOW_METHODS", "NIM_CORS_ALLOW_HEADERS", "NIM_DISABLE_RESPONSES_ROUTE"), _HTTP),
    "NIM_SERVER_FAIL_FAST": "use NIMBLE_MAX_CONCURRENT_REQUESTS",
    "NIM_DISABLE_LOG_REQUESTS": "prompts are never logged",
    "NIM_PER_REQ_METRICS_ENABLE": "every answer's usage has the counts of draft tokens",
    "NIM_TELEMETRY_MODE": "nothing is sent anywhere",
    **dict.fromkeys(
        (
            "NIM_ENABLE_OTEL",
            "NIM_OTEL_SERVICE_NAME",
            "NIM_OTEL_TRACES_EXPORTER",
            "NIM_OTEL_METRICS_EXPORTER",
            "NIM_OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        _OTEL,
    ),
    **dict.fromkeys(
        ("NIM_MULTI_NODE", "NIM_NUM_COMPUTE_NODES", "NIM_LEADER_ROLE", "NIM_NODE_RANK", "NIM_MPI_ALLOW_RUN_AS_ROOT"),
        _ONE_NODE,
    ),
    **dict.fromkeys(("NIM_ENGINE_MODEL_DOWNLOAD_ONLY", "NIM_ENGINE_MODEL_PATH"), "use the command download-to-cache"),
    "NIM_REPOSITORY_OVERRIDE": _NGC,
    "NGC_API_KEY": _NGC,
    **dict.fromkeys(
        (
            "NIM_PROXY_CONNECTIVITY_TARGETS",
            "NIM_SDK_USE_NATIVE_TLS",
            "NIM_SDK_DOWNLOAD_MAX_RETRY_COUNT",
            "NIM_SDK_DOWNLOAD_BACKOFF_INTERVAL_MS",
            "NIM_SDK_MAX_PARALLEL_DOWNLOAD_REQUESTS",
        ),
        _DOWNLOAD,
    ),
}
"""Names of NIM that do nothing here, and why, or what to use."""


def env_names(setting: str) -> list[str]:
    """The environment variables of a setting; the first that is set wins."""
    own = ESTABLISHED.get(setting, f"NIMBLE_{setting.upper()}")
    return [own, *ALIASES.get(setting, ())]


KEYS = (*env_names("api_keys"), *env_names("admin_key"))
HUB = (*env_names("hf_token"), "HUGGING_FACE_HUB_TOKEN")
TRACES = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
"""Often with the collector's key."""
SECRETS = (*KEYS, *HUB, *TRACES, "NIMBLE_API_KEY", "NGC_API_KEY")


def without_secrets(environment: Mapping[str, str], needed: Collection[str] = ()) -> dict[str, str]:
    """A child's environment: of the variables that hold secrets, those that it needs."""
    return {name: value for name, value in environment.items() if name in needed or name not in SECRETS}
