"""Stands in for tensorrt_llm/quantization/quantize_by_modelopt.py."""

import json
import os
from pathlib import Path

from tensorrt_llm import record, write_checkpoint


def quantize_and_export(
    *,
    model_dir,
    device,
    calib_dataset,
    dtype,
    qformat,
    kv_cache_dtype,
    calib_size,
    batch_size,
    calib_max_seq_length,
    awq_block_size,
    output_dir,
    tp_size,
    pp_size,
    cp_size,
    seed,
    tokenizer_max_seq_length,
    num_medusa_heads=None,
    num_medusa_layers=None,
    max_draft_len=None,
    medusa_hidden_act=None,
    medusa_model_dir=None,
    quant_medusa_head=None,
    auto_quantize_bits=None,
    device_map="auto",
    quantize_lm_head=False,
):
    if not json.loads(os.environ.get("STANDIN_GPUS", "[]")):
        raise RuntimeError("No CUDA GPUs are available")
    if (qformat, kv_cache_dtype, device) != ("fp8", "fp8", "cuda"):
        raise ValueError(f"qformat {qformat}, kv_cache_dtype {kv_cache_dtype}, device {device}")
    rows = [json.loads(line) for line in (Path(calib_dataset) / "train.jsonl").read_text().splitlines()]
    texts = sum(bool(row["text"]) for row in rows)
    record("quantize_and_export", model_dir=model_dir, dtype=dtype, tp=tp_size, texts=texts)
    write_checkpoint(model_dir, output_dir, dtype, tp_size, list(range(tp_size)), "FP8")
