"""The form that a request wants its answer in: many clients' fields, one meaning each.

OpenAI's `response_format`; vLLM's `structured_outputs` and its older `guided_*`; NIM's `nvext`; llama.cpp's
`json_schema` and `grammar`. A schema that is not strict has the keywords that cannot be held to passed over.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from nimble_coder.contract.request import Guide, GuideType
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.parameters import of_objects
from nimble_coder.gateway.requests.schemas.forms import GuidedFields, ResponseFormat
from nimble_coder.gateway.requests.schemas.sampling import SamplingFields

LENIENT = {"lenient": True, "coerce_one_of": True}
"""llguidance's names: unknown keywords are passed over, and oneOf is anyOf."""
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One line, as the chat template shows calls."""
ANY_OBJECT = Guide(GuideType.JSON, "")
TEXT_FORMAT = "text.format"
"""Where a Responses request has its `response_format`, without the inner object."""


def guide_of(asked: SamplingFields) -> Guide | None:
    """The form that is asked for; raises `ApiError` for one that is not known, and for two."""
    found = named_guide(asked)
    return found[1] if found else None


def named_guide(asked: SamplingFields) -> tuple[str, Guide] | None:
    """The same with its field."""
    found = list(guides(asked))
    if len(found) > 1:
        text = f"{found[0][0]} and {found[1][0]} both ask for a form of the answer: send one of them"
        raise ApiError(400, text, "invalid_input", found[1][0])
    return found[0] if found else None


def guides(asked: SamplingFields) -> Iterator[tuple[str, Guide]]:
    """Every form that is asked for, by its field."""
    if asked.response_format and (guide := of_format(asked.response_format)):
        yield "response_format", guide
    yield from of_fields(asked, "")
    if asked.nvext:
        yield from of_fields(asked.nvext, "nvext.")
    if asked.structured_outputs:
        outputs = asked.structured_outputs
        given = {f"guided_{name}": getattr(outputs, name) for name in ("json", "regex", "choice", "grammar")}
        fields = GuidedFields(**given, guided_json_object=outputs.json_object)
        for name, guide in of_fields(fields, ""):
            yield f"structured_outputs.{name.removeprefix('guided_')}", guide
    if asked.json_schema not in (None, ""):
        yield "json_schema", of_schema(asked.json_schema)
    if asked.grammar:
        yield "grammar", of_grammar(asked.grammar)


def of_format(given: ResponseFormat, field: str = "response_format") -> Guide | None:
    """OpenAI's; llama.cpp has a schema beside `json_object` too. Raises `ApiError`, which names the field."""
    named = given.json_schema
    schema = named.schema if named and named.schema is not None else given.schema
    kind = given.type or "text"
    match kind:
        case "text" if schema is not None:
            text = f"{field} has a schema, which its type, text, does not hold an answer to: send type json_schema"
            raise ApiError(400, text, "invalid_input", f"{field}.type")
        case "text":
            return None
        case "json_object":
            return ANY_OBJECT if schema is None else of_schema(schema)
        case "json_schema" if schema is not None:
            return of_schema(schema) if named and named.strict else of_schema({**schema, "x-guidance": LENIENT})
        case "json_schema":
            place = "schema" if field == TEXT_FORMAT else "json_schema.schema"
            raise ApiError(400, f"{field} has no schema: send it as {place}", "invalid_input", f"{field}.{place}")
    text = f"{field}.type is {kind[:40]!r}: send text, json_object or json_schema"
    raise ApiError(400, text, "unsupported", field)


def of_fields(given: GuidedFields, prefix: str) -> Iterator[tuple[str, Guide]]:
    """vLLM's and NIM's."""
    if given.guided_json not in (None, ""):
        yield f"{prefix}guided_json", of_schema(given.guided_json)
    if given.guided_regex:
        yield f"{prefix}guided_regex", Guide(GuideType.REGEX, given.guided_regex)
    if given.guided_choice:
        yield f"{prefix}guided_choice", Guide(GuideType.CHOICE, json.dumps(given.guided_choice, ensure_ascii=False))
    if given.guided_grammar:
        yield f"{prefix}guided_grammar", of_grammar(given.guided_grammar)
    if given.guided_json_object:
        yield f"{prefix}guided_json_object", ANY_OBJECT


def of_schema(schema: Any) -> Guide:
    """A JSON Schema, as JSON or as its text; its properties keep their order."""
    return Guide(GuideType.JSON_SCHEMA, schema if isinstance(schema, str) else json.dumps(schema))


def of_grammar(text: str) -> Guide:
    """GBNF, whose rules have `::=`, or Lark."""
    return Guide(GuideType.EBNF_GRAMMAR if "::=" in text else GuideType.LARK, text)


Function = tuple[str, dict[str, Any] | None, bool]
"""A name, its parameters' schema, and whether that is strict."""


def call_guide(functions: Sequence[Function], is_begun: bool) -> Guide:
    """The form of a demanded call: what follows `<tool_call>`, a line's end and `{"name":` in the prompt.

    `is_begun` says that the only function's name and `"arguments":` are in the prompt too. It is one call: free to go
    on, the smallest models call without end.
    """
    schemas = [schema_of(function) for function in functions]
    start = rf'start: " " {"arguments_0" if is_begun else "any"} "}}\n" </tool_call>'
    return Guide(GuideType.LARK, "\n".join([start, *call_rules([name for name, _, _ in functions], schemas)]))


def turn_guide(functions: Sequence[Function], most: int | None, answer: Any) -> Guide:
    """The form of a turn in which calls are offered: text, in which `<tool_call>` begins a call of a function, whose
    arguments have the schema where it is strict and are any JSON object otherwise. Where `answer` is a schema, and not
    None, the turn is JSON that has it, or calls. `most` is 1 where one call ends it.
    """
    if answer is not None:
        start = "start: answer | call" + ("" if most == 1 else ' ("\\n" call)*')
        rules = [start, f"answer: %json {json.dumps(laid_out(answer))}"]
    else:
        rules = ["start: TEXT call?" if most == 1 else "start: TEXT (call TEXT)*", r"TEXT: /(.|\n)*/"]
    rules.append(r'call: <tool_call> "\n{\"name\": " any "}\n" </tool_call>')
    any_object: dict[str, Any] = {"type": "object", "x-guidance": LAYOUT}
    schemas = [schema_of(function) if function[2] else any_object for function in functions]
    return Guide(GuideType.LARK, "\n".join([*rules, *call_rules([name for name, _, _ in functions], schemas)]))


def answer_schema(form: Guide) -> Any:
    """The schema of an answer's form; None where it is none."""
    if form.type is GuideType.JSON:
        return {"type": "object"}
    try:
        return json.loads(form.text) if form.type is GuideType.JSON_SCHEMA else None
    except (ValueError, RecursionError):
        return None


def schema_of(function: Function) -> dict[str, Any]:
    """The schema of a function's arguments: that of none where it has no parameters."""
    _, parameters, is_strict = function
    schema = {"type": "object", "additionalProperties": False} if parameters is None else of_objects(parameters)
    return {**schema, "x-guidance": LAYOUT if is_strict else {**LAYOUT, **LENIENT}}


def laid_out(schema: Any) -> Any:
    """A schema whose values come on one line."""
    return {**schema, "x-guidance": {**LAYOUT, **guidance_of(schema)}} if isinstance(schema, dict) else schema


def guidance_of(schema: Any) -> dict[str, Any]:
    """What a schema says to llguidance: nothing, where that is no object."""
    found = schema.get("x-guidance") if isinstance(schema, dict) else None
    return found if isinstance(found, dict) else {}


def call_rules(names: Sequence[str], schemas: Sequence[dict[str, Any]]) -> list[str]:
    """Rules: `any` is what stands in a call between `{"name": ` and its closing brace, `arguments_0` a function's."""
    rules = ["any: " + " | ".join(f"call_{number}" for number in range(len(names)))]
    for number, (name, schema) in enumerate(zip(names, schemas, strict=True)):
        beginning = json.dumps(f'{json.dumps(name, ensure_ascii=False)}, "arguments": ', ensure_ascii=False)
        rules += [f"call_{number}: {beginning} arguments_{number}", f"arguments_{number}: %json {json.dumps(schema)}"]
    return rules
