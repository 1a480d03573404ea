"""A checkpoint's tokenizer, held to its model before an engine is built: a service cannot start with a broken one."""

from tokenizers import Tokenizer

from build_engine.checkpoint import Checkpoint, CheckpointError
from build_engine.control_tokens import ControlTokens


def check_vocabulary(checkpoint: Checkpoint) -> None:
    """Raises `CheckpointError` for a tokenizer that cannot be loaded, that has tokens which the model lacks, or whose
    files do not say what ends a text."""
    path, size = checkpoint.directory / "tokenizer.json", checkpoint.shape.vocab_size
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no class of its own for it
        raise CheckpointError(f"{path} cannot be loaded, download it again: {error!s:.200}") from None
    last = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= last < size:
        raise CheckpointError(
            f"{path} has tokens up to number {last}, the model's embedding has {size} rows: it belongs to another model"
        )
    for own in (path for path in checkpoint.tokenizer_files if path.suffix == ".jinja"):
        try:
            own.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{own} cannot be read, download it again: {error}") from None
    try:
        tokens = ControlTokens(checkpoint.directory, tokenizer.token_to_id)
        ids = {*tokens.end_ids, tokens.pad_id}
    except ValueError as error:
        raise CheckpointError(f"{error}; download it again") from None
    if max(ids) >= size:
        raise CheckpointError(f"{checkpoint.directory} names token {max(ids)}, the model's embedding has {size} rows")
