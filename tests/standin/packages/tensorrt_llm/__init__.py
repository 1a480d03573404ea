"""Stands in for the package `tensorrt_llm`: the calls that the build stage makes, with their recorded signatures.

Sources: models/qwen/model.py, mapping.py, quantization/quantize_by_modelopt.py below tensorrt_llm/ of
NVIDIA/TensorRT-LLM, the nearest readable versions to 0.19.0. Environment: STANDIN_GPUS, STANDIN_RECORD, STANDIN_CONVERT
(a fault: `exit` or `hang`).
"""

import json
import os
import time
from pathlib import Path

__version__ = "0.19.0"


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
            "head_size": config["hidden_size"] // config["num_attention_heads"],
            "norm_epsilon": config["rms_norm_eps"],
            "rotary_base": config["rope_theta"],
            "max_position_embeddings": config["max_position_embeddings"],
            "mapping": {"world_size": tp_size, "tp_size": tp_size, "pp_size": 1, "cp_size": 1, "gpus_per_node": 8},
            "quantization": {"quant_algo": quant, "kv_cache_quant_algo": kv},
        }
        (output / "config.json").write_text(json.dumps(content, indent=4))
    for rank in ranks:
        (output / f"rank{rank}.safetensors").write_bytes(os.urandom(64))
