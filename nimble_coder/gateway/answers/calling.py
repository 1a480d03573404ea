"""What an answer may call."""

import json
from dataclasses import dataclass, field
from functools import cached_property

from nimble_coder.contract.request import Guide
from nimble_coder.gateway.answers.bodies.chat import ChatFinishReason
from nimble_coder.gateway.answers.strict_arguments import StrictArguments
from nimble_coder.gateway.requests.forms import Function

FIRST_KEYS = ("arguments", "parameters", "function", "type", "id")
"""What a call may begin with besides its name."""


@dataclass(frozen=True)
class Calling:
    """What an answer may call, and whether it must."""

    names: frozenset[str] = frozenset()
    """The functions offered: JSON that names another is ordinary text."""
    opening: str = ""
    """What the prompt has already written of a call that is demanded."""
    guide: Guide | None = None
    """The form of the answer, behind the opening, in which calls are as they should be; None where nothing is held."""
    held_functions: tuple[str, ...] = ()
    """Those whose calls the form has, in its order."""
    finish_reason: ChatFinishReason = "tool_calls"
    """Of an answer with calls."""
    most: int | None = None
    """So many calls at most; others are left out."""
    is_legacy: bool = False
    """Asked for as `functions`: the call is answered as `function_call`."""
    demanded_functions: tuple[Function, ...] = ()
    """Those that a demanded call may be of."""
    strict: StrictArguments = field(default_factory=StrictArguments)
    """What the arguments have to be of a call that is not held to its form: JSON with others is ordinary text."""

    @property
    def offers_field(self) -> str:
        """Where the functions are from."""
        return "functions" if self.is_legacy else "tools"

    @cached_property
    def beginnings(self) -> tuple[str, ...]:
        """How the JSON of a call begins, without blanks."""
        names = [f'{{"name":"{squeeze(name)}"' for name in self.names]
        return (*names, *(f'{{"{key}":' for key in FIRST_KEYS))

    @cached_property
    def held_beginnings(self) -> dict[str, str]:
        """The names of the functions by how a call of each begins, up to its arguments, where calls are held."""
        if self.guide is None:
            return {}
        return {
            f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": ': name for name in self.names
        }

    def prepared(self) -> "Calling":
        """The same, with what answers are read by: of many functions that takes long, and an answer is read in the
        event loop."""
        _ = self.beginnings, self.held_beginnings
        return self


def squeeze(text: str) -> str:
    """A text without blanks, its quotes being JSON's."""
    return "".join(text.split()).replace("'", '"')
