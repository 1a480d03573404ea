"""Writes docs/request-fields.md: `python -m nimble_coder.gateway.requests.documentation > docs/request-fields.md`."""

import json
from collections.abc import Iterator, Sequence

from nimble_coder.contract.fields import SCALARS
from nimble_coder.gateway.requests.field_check import HONOURED, ROUTES
from nimble_coder.gateway.requests.fields import GROUPS, Engine, Field, Otherwise

PARAMETERS = ", ".join(f"`{s.name}`" for s in SCALARS.values() if s.api and not s.datatype)
HEAD = f"""# Request fields

Written by `python -m nimble_coder.gateway.requests.documentation`; a test keeps it current, another one sends every
field.

What becomes of every field that OpenAI, vLLM, llama.cpp, NIM, Triton's generate front and a few editors define, on the
routes `completions` (`/v1/completions`), `chat` (`/v1/chat/completions`), `responses` (`/v1/responses`), `fim`
(`/v1/fim/completions`), `infill` (`/infill`) and `llama` (`/completion`). Null always means absent.

- **honoured**: does what it says on these routes. Some need an engine that can: "not greedy" is every engine but a
  TensorRT engine with lookahead and no companion, which decodes greedily whatever it is sent; "portable" is the
  portable engine alone.
- **neutral**: values that ask for nothing, accepted everywhere.
- **otherwise**: what becomes of it on the other routes, with other engines and with other values. What is ignored is
  named in the answer's header `x-nimble-ignored`, and so is a field that stands in no table. What is refused gets 400
  with the code `unsupported`: it forces the form of an answer, forbids tokens, or is content that no model here reads.
- Of two names of one thing that say different things one holds: `max_completion_tokens` before `max_tokens`, before
  `n_predict`, which holds on llama.cpp's routes; what stands beside `options` before what is in them; `random_seed`
  before `seed`; `repetition_penalty` before `repeat_penalty`. The other one is ignored and named. So is what means
  nothing beside the rest: `repo_name` and `filename` without `input_extra`, and this without a hole to fill; or
  `lookahead` beside the name of another drafter, and `drafting` `lookahead` beside `lookahead` false.
- `functions` beside `tools` is refused, and so are `function_call` beside `tools` and `tool_choice` beside `functions`
  that say something else than what goes with them.
- `NIMBLE_STRICT_SAMPLING=true` refuses what would be ignored, too.

`outer.inner` is a field of an object, or of each object in a list. In these, and not beside them, false and what is
empty ask for nothing in a field that stands in no table; 0 is a number and is named.

On `/v2` the inputs are those of Triton's models, and the portable engine takes as request
parameters {PARAMETERS} as numbers, and `logit_bias` as JSON of biases by token id.
"""
NEEDS = {Engine.GREEDY: "", Engine.SAMPLING: " (not greedy)", Engine.PORTABLE: " (portable)"}
OTHERWISE = {
    Otherwise.ACCEPTED: "accepted, changes no answer",
    Otherwise.IGNORED: "ignored and said",
    Otherwise.REFUSED: "**refused**",
}


def page() -> str:
    """The whole page."""
    return HEAD + "".join(line for title, group in GROUPS.items() for line in table(title, group))


def table(title: str, group: Sequence[Field]) -> Iterator[str]:
    """A row per field."""
    yield f"\n## {title}\n\n| field | of | honoured | neutral | otherwise |\n|---|---|---|---|---|\n"
    for field in group:
        neutral = ", ".join(f"`{json.dumps(value)}`" for value in field.neutral)
        routes = ", ".join(route for route, kind in ROUTES.items() if field.name in HONOURED[kind])
        shown = f"{routes}{NEEDS[field.needs]}" if routes else ""
        yield f"| `{field.name}` | {field.of} | {shown} | {neutral} | {OTHERWISE[field.otherwise]} |\n"


if __name__ == "__main__":
    print(page(), end="")
