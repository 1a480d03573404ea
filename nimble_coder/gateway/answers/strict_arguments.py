"""The arguments of calls that nothing has held to their functions' schemas: whether they have them."""

import json
from collections.abc import Iterable

import jsonschema_rs

from nimble_coder.contract.request import MOST_GUIDE
from nimble_coder.engine.schema_references import check_references
from nimble_coder.gateway.answers.bodies.chat import CalledFunction
from nimble_coder.gateway.answers.validation_work import check_keywords, is_much
from nimble_coder.gateway.requests.forms import Function, schema_of

MOST_PATTERNS = 64
"""Of one function: each takes up to 5 ms to compile."""
REGEX = jsonschema_rs.RegexOptions(size_limit=2**18)
"""Automata, whose time is linear in the text; the limit is in bytes of each."""


class StrictArguments:
    """The schemas of the functions that are strict; each is compiled when it is first asked for."""

    def __init__(self, functions: Iterable[Function] = ()) -> None:
        self._schemas = {function[0]: schema_of(function) for function in functions if function[2]}
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def check(self) -> None:
        """Raises ValueError, which names the function, where a schema is none or takes too long to compile."""
        for name in self._schemas:
            try:
                self._validator(name)
            except (ValueError, RecursionError) as error:
                lines = str(error).splitlines() or [""]
                raise ValueError(f"the parameters of {name[:80]!r}: {lines[0][:200]}") from None

    def allow(self, call: CalledFunction) -> bool:
        """Whether a call may have the arguments, JSON's text, that it has: any, where its function is not strict; none,
        where its schema is none or would be looked at for long."""
        if call.name not in self._schemas:
            return True
        try:
            validator, arguments = self._validator(call.name), json.loads(call.arguments)
            return not is_much(self._schemas[call.name], arguments) and bool(validator.is_valid(arguments))
        except (ValueError, RecursionError):
            return False

    def _validator(self, name: str) -> jsonschema_rs.Validator:
        if name not in self._validators:
            schema = self._schemas[name]
            text = json.dumps(schema)
            if len(text) > MOST_GUIDE:
                raise ValueError(f"they have {len(text)} characters, {MOST_GUIDE} is the limit")
            if text.count('"pattern') > MOST_PATTERNS:
                raise ValueError(f"they have more than {MOST_PATTERNS} patterns")
            check_references(schema)
            check_keywords(schema)
            self._validators[name] = jsonschema_rs.validator_for(
                schema, validate_formats=True, retriever=fetch_nothing, pattern_options=REGEX
            )
        return self._validators[name]


def fetch_nothing(uri: str) -> None:
    """Raises ValueError: what a schema refers to has to be in it, and is never asked of others."""
    raise ValueError(f"{uri[:80]!r} is not in the schema")
