"""Quantises a checkpoint to fp8 in TensorRT-LLM's format, for all ranks at once; a process of its own, run by the plan.

Interface used (TensorRT-LLM 0.19): `tensorrt_llm.quantization.quantize_and_export`, whose arguments are all
keyword-only. Needs a GPU and nvidia-modelopt. Activation ranges are calibrated on code: the standard library of the
running Python, which is on every machine, so that no data set is downloaded.
"""

import argparse
import json
import sysconfig
from pathlib import Path

from build_engine.engines.transformers4 import as_transformers_4

SAMPLES, SAMPLE_TOKENS, BATCH = 512, 512, 8
SAMPLE_CHARACTERS = 4 * SAMPLE_TOKENS
"""About four characters of code are one token."""


def write_calibration(directory: Path) -> Path:
    """Writes `directory/train.jsonl`, a data set in the layout that TensorRT-LLM loads: split train, column text."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = []
    for source in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = source.read_text(encoding="utf-8", errors="ignore")
        pieces = range(0, max(1, len(text) - SAMPLE_CHARACTERS), 4 * SAMPLE_CHARACTERS)
        texts += [text[start : start + SAMPLE_CHARACTERS] for start in pieces]
    with (directory / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts[:SAMPLES] if text.strip())
    return directory


def quantize(
    model_dir: Path, output_dir: Path, dtype: str, tensor_parallel: int, calibration: str | None, fp8_kv_cache: bool
) -> None:
    """Writes the fp8 checkpoint into `output_dir`, with scales of the KV cache where that is to be in fp8 too.

    `calibration` is a data set's directory or name; None takes code from the standard library.
    """
    from tensorrt_llm.quantization import quantize_and_export  # noqa: PLC0415 - exists only in NVIDIA's container

    with as_transformers_4(model_dir) as source:
        quantize_and_export(
            model_dir=str(source),
            device="cuda",
            calib_dataset=calibration or str(write_calibration(output_dir.with_name("calibration"))),
            dtype=dtype,
            qformat="fp8",
            kv_cache_dtype="fp8" if fp8_kv_cache else None,
            calib_size=SAMPLES,
            batch_size=BATCH,
            calib_max_seq_length=SAMPLE_TOKENS,
            awq_block_size=128,
            output_dir=str(output_dir),
            tp_size=tensor_parallel,
            pp_size=1,
            cp_size=1,
            seed=1234,
            tokenizer_max_seq_length=2048,
        )


def main() -> None:
    """The command line; flags as in the plan."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--tensor-parallel", type=int, required=True)
    parser.add_argument("--calibration")
    parser.add_argument("--fp8-kv-cache", action="store_true")
    quantize(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
