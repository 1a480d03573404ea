"""An infill's prompt in the order of its file, for drafters: the model reads what is behind the hole first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class InfillMarks:
    """The control tokens around the parts of a prompt `<|fim_prefix|>before<|fim_suffix|>behind<|fim_middle|>`."""

    prefix: int
    suffix: int
    middle: int

    @classmethod
    def among(cls, control: Mapping[str, int]) -> "InfillMarks | None":
        """By the ids of all control tokens; None where the model has no such ones."""
        names = [f"<|fim_{name}|>" for name in ("prefix", "suffix", "middle")]
        return cls(*map(control.__getitem__, names)) if control.keys() >= {*names} else None

    def in_file_order(self, prompt: Sequence[int]) -> list[int]:
        """What is behind the hole, then what is before it, so that the answer goes on where its file does.

        Else every answer would follow the end of the file, wherever the hole is. Other prompts stay as they are.
        """
        ids = list(prompt)
        if not ids or ids[-1] != self.middle or self.suffix not in ids:
            return ids
        suffix = len(ids) - 1 - ids[::-1].index(self.suffix)
        if self.prefix not in ids[:suffix]:
            return ids
        prefix = suffix - 1 - ids[suffix - 1 :: -1].index(self.prefix)
        return ids[:prefix] + ids[suffix:] + ids[prefix:suffix]
