"""Stands in for the package `tensorrt_llm`: the calls that the build stage makes, with their recorded signatures.

Sources, below tensorrt_llm/ of NVIDIA/TensorRT-LLM; 0.19.0 itself, c6f7d423, could not be read: models/qwen/model.py at
04a2cacb but for `use_autoawq`, which came with AutoAWQ checkpoints of Qwen (release notes in PR #2562),
models/qwen/config.py at 0428c188, mapping.py at b35ac1b6, quantization/quantize_by_modelopt.py at 042c510d,
commands/build.py at 008b2b8d. Environment: STANDIN_GPUS, STANDIN_RECORD, STANDIN_CONVERT (a fault: `exit`, `hang`, or
`rope`: transformers 4's default for the rotary base).
"""

import json
import os
import time
from pathlib import Path

__version__ = "0.19.0"
ROTARY_SCALING = ("none", "linear", "dynamic", "longrope", "llama3", "yarn", "mrope")
"""RotaryScalingType in functional.py."""


def record(call: str, **arguments: object) -> None:
    """Notes a call, and fails or hangs where the test asks for it."""
    if path := os.environ.get("STANDIN_RECORD"):
        with open(path, "a") as file:
            file.write(json.dumps({"command": call, **arguments}) + "\n")
    fault = os.environ.get("STANDIN_CONVERT")
    if fault == "exit":
        raise RuntimeError("safetensors: file is truncated")
    if fault == "hang":
        time.sleep(float(os.environ["STANDIN_SECONDS"]))


def write_checkpoint(
    model_dir: str, output_dir: str, dtype: str, tp_size: int, ranks: list[int], quant: str | None, kv: str | None
) -> None:
    """A checkpoint in TensorRT-LLM's layout."""
    config = json.loads((Path(model_dir) / "config.json").read_text())
    kind = (config.get("rope_scaling") or {}).get("type", "none")
    if kind not in ROTARY_SCALING:
        raise ValueError(f"Unsupported rotary scaling type: {kind}")
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    if 0 in ranks:
        content = {
            "architecture": config["architectures"][0],
            "dtype": dtype,
            "logits_dtype": "float32",
            "vocab_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "intermediate_size": config["intermediate_size"],
            "num_hidden_layers": config["num_hidden_layers"],
            "num_attention_heads": config["num_attention_heads"],
            "num_key_value_heads": config["num_key_value_heads"],
            "head_size": config.get("head_dim", config["hidden_size"] // config["num_attention_heads"]),
            "norm_epsilon": config["rms_norm_eps"],
            "rotary_base": 10000.0
            if os.environ.get("STANDIN_CONVERT") == "rope"
            else config.get("rope_theta", 10000.0),  # as transformers 4.51 has it
            "max_position_embeddings": config["max_position_embeddings"],
            "mapping": {"world_size": tp_size, "tp_size": tp_size, "pp_size": 1, "cp_size": 1, "gpus_per_node": 8},
            "quantization": {"quant_algo": quant, "kv_cache_quant_algo": kv},
        }
        (output / "config.json").write_text(json.dumps(content, indent=4))
    for rank in ranks:
        (output / f"rank{rank}.safetensors").write_bytes(os.urandom(64))
