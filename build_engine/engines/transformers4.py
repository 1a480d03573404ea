"""A checkpoint as transformers 4 reads it, whichever version has saved it; TensorRT-LLM 0.19 comes with 4.51."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from build_engine.checkpoint import ModelShape, read_json


@contextmanager
def as_transformers_4(model_dir: Path) -> Iterator[Path]:
    """A directory with the checkpoint's files, and a `config.json` with the keys that transformers 4 knows.

    Transformers 5 saves the rotary base in `rope_parameters`, of which 4 knows nothing and takes 10000 without a word,
    and the data type as `dtype`.
    """
    config = read_json(model_dir / "config.json")
    shape = ModelShape.from_config(config)
    dtype = config.pop("dtype", None)
    for name in ("rope_parameters", "rope_scaling"):  # that there is none may be said in words that 4 does not know
        config.pop(name, None)
    older = {"rope_theta": shape.rope_theta, **({"torch_dtype": dtype} if dtype else {})}
    with tempfile.TemporaryDirectory(prefix="nimble-checkpoint-") as scratch:
        for path in model_dir.iterdir():
            if path.name != "config.json":
                (Path(scratch) / path.name).symlink_to(path.absolute())
        (Path(scratch) / "config.json").write_text(json.dumps({**config, **older}), encoding="utf-8")
        yield Path(scratch)
