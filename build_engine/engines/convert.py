"""Converts one rank of a Hugging Face checkpoint to TensorRT-LLM's format; a process of its own, run by the plan.

A process a rank, so that its memory is free again before the next, and so that a crash inside TensorRT-LLM is an exit
code. Interface used (TensorRT-LLM 0.19): `Mapping`, `QWenForCausalLM.from_hugging_face`, `.save_checkpoint`. Needs no
GPU: the weights are read on the CPU.
"""

import argparse
from pathlib import Path

from build_engine.engines.transformers4 import as_transformers_4


def convert_rank(model_dir: Path, output_dir: Path, dtype: str, tensor_parallel: int, rank: int) -> None:
    """Writes `rank{rank}.safetensors`, and for rank 0 `config.json`, into `output_dir`."""
    from tensorrt_llm.mapping import Mapping  # noqa: PLC0415 - exists only in NVIDIA's container
    from tensorrt_llm.models import QWenForCausalLM  # noqa: PLC0415

    mapping = Mapping(world_size=tensor_parallel, rank=rank, tp_size=tensor_parallel)
    with as_transformers_4(model_dir) as source:
        model = QWenForCausalLM.from_hugging_face(str(source), dtype=dtype, mapping=mapping, load_model_on_cpu=True)
        output_dir.mkdir(parents=True, exist_ok=True)
        model.save_checkpoint(str(output_dir), save_config=rank == 0)


def main() -> None:
    """The command line; flags as in the plan."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--tensor-parallel", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    convert_rank(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
