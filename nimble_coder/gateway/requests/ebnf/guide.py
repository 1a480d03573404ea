"""What a TensorRT engine is asked for where an answer is to have a form: the contract's guide."""

import json
from collections.abc import Sequence

from nimble_coder.contract.request import MOST_GUIDE, Guide, GuideType
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.requests.ebnf.grammar import FormError, Grammar, literal
from nimble_coder.gateway.requests.ebnf.json_schema import SchemaGrammar
from nimble_coder.gateway.requests.ebnf.regex import regex_body
from nimble_coder.gateway.requests.forms import Function, schema_of


def as_ebnf(guide: Guide) -> Guide:
    """The same form, or a part of it, as the contract's `ebnf_grammar`; raises `FormError` for what these engines
    cannot be held to. What xgrammar would throw at must not reach it: that ends every request of the engine's step
    (`GuidedDecoder::build` in TensorRT-LLM 0.19)."""
    if len(guide.text) > MOST_GUIDE:
        raise FormError(f"the form has {len(guide.text)} characters, {MOST_GUIDE} is the limit: send a smaller one")
    grammar = Grammar()
    return Guide(GuideType.EBNF_GRAMMAR, grammar.text(body_of(guide, grammar)))


def body_of(guide: Guide, grammar: Grammar) -> str:
    """The body of the first rule."""
    match guide.type:
        case GuideType.CHOICE:
            return " | ".join(literal(choice) for choice in json.loads(guide.text))
        case GuideType.REGEX:
            return regex_body(guide.text)
        case GuideType.JSON:
            return SchemaGrammar({"type": "object"}, grammar).body()
        case GuideType.JSON_SCHEMA:
            try:
                schema = json.loads(guide.text)
            except (ValueError, RecursionError):
                raise FormError("the schema is no JSON") from None
            return SchemaGrammar(schema, grammar).body()
    raise FormError("a TensorRT engine takes no grammar here: send a JSON Schema, a regular expression or a choice")


def call_ebnf(functions: Sequence[Function]) -> Guide:
    """The form of a demanded call behind its beginning in the prompt, as `call_guide` has it, up to its last brace.

    What closes the tag is no text to xgrammar. Raises `ApiError` for a function whose `strict` cannot be kept; the
    arguments of another one are then any object.
    """
    grammar = Grammar()
    calls = []
    for function in functions:
        name, _, is_strict = function
        try:
            arguments = SchemaGrammar(schema_of(function), grammar).body()
        except FormError as error:
            if is_strict:
                text = f"the strict parameters of {name[:80]!r} are not available: {error}"
                raise ApiError(400, text, "unsupported", "tools") from None
            arguments = "object"
        beginning = literal(f'{json.dumps(name)}, "arguments": ')
        calls.append(f"{beginning} {arguments}" if len(functions) > 1 else arguments)
    return Guide(GuideType.EBNF_GRAMMAR, grammar.text(f'" " ({" | ".join(calls)}) "}}"'))
