"""Stands in for tensorrt_llm/quantization/quantize_by_modelopt.py."""

import json
import os
from pathlib import Path

from tensorrt_llm import record, write_checkpoint


def quantize_and_export(
    *,
    model_dir: str,
    device: str,
    calib_dataset: str,
    dtype: str,
    qformat: str,
    kv_cache_dtype: str | None,
    calib_size: int,
    batch_size: int,
    calib_max_seq_length: int,
    awq_block_size: int,
    output_dir: str,
    tp_size: int,
    pp_size: int,
    cp_size: int,
    seed: int,
    tokenizer_max_seq_length: int,
    num_medusa_heads: int | None = None,
    num_medusa_layers: int | None = None,
    max_draft_len: int | None = None,
    medusa_hidden_act: str | None = None,
    medusa_model_dir: str | None = None,
    quant_medusa_head: bool | None = None,
    auto_quantize_bits: float | None = None,
    device_map: str = "auto",
    quantize_lm_head: bool = False,
) -> None:
    if not json.loads(os.environ.get("STANDIN_GPUS", "[]")):
        raise RuntimeError("No CUDA GPUs are available")
    if (qformat, device) != ("fp8", "cuda") or kv_cache_dtype not in ("fp8", None):
        raise ValueError(f"qformat {qformat}, kv_cache_dtype {kv_cache_dtype}, device {device}")
    rows = [json.loads(line) for line in (Path(calib_dataset) / "train.jsonl").read_text().splitlines()]
    texts = sum(bool(row["text"]) for row in rows)
    record("quantize_and_export", model_dir=model_dir, dtype=dtype, tp=tp_size, texts=texts)
    write_checkpoint(
        model_dir, output_dir, dtype, tp_size, list(range(tp_size)), "FP8", "FP8" if kv_cache_dtype else None
    )
