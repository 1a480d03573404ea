"""Stands in for tensorrt_llm/models/qwen/model.py."""

from tensorrt_llm import record, write_checkpoint
from tensorrt_llm.mapping import Mapping

KNOWN_KEYWORDS = {"load_model_on_cpu", "use_autoawq"}


class QWenForCausalLM:
    directory: str
    dtype: str
    mapping: Mapping

    @classmethod
    def from_hugging_face(
        cls,
        hf_model_or_dir: str,
        dtype: str = "auto",
        mapping: Mapping | None = None,
        quant_config: object = None,
        **kwargs: object,
    ) -> "QWenForCausalLM":
        if unknown := set(kwargs) - KNOWN_KEYWORDS:
            raise TypeError(f"unexpected keyword arguments {sorted(unknown)}")
        if dtype not in ("auto", "float16", "bfloat16", "float32") or not isinstance(mapping, Mapping):
            raise ValueError(f"dtype {dtype!r}, mapping {mapping!r}")
        model = cls()
        model.directory, model.dtype, model.mapping = hf_model_or_dir, dtype, mapping
        record("from_hugging_face", model_dir=hf_model_or_dir, dtype=dtype, rank=mapping.rank, tp=mapping.tp_size)
        return model

    def save_checkpoint(self, output_dir: str, save_config: bool = True) -> None:
        if save_config != (self.mapping.rank == 0):
            raise ValueError("only rank 0 saves the configuration")
        write_checkpoint(self.directory, output_dir, self.dtype, self.mapping.tp_size, [self.mapping.rank], None, None)
