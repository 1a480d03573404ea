"""Forms of every kind that the embedded model can write, and a prompt for it."""

import json

from nimble_coder.contract.request import Guide, GuideType
from nimble_coder.gateway.requests.forms import turn_guide
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED

VOCAB = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))["vocab_size"]
END = TextTokenizer(EMBEDDED).end_ids[0]
PROMPT = [300 + i % 7 for i in range(40)]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "roles": {"type": "array", "items": {"enum": ["admin", "user"]}, "minItems": 1, "maxItems": 3},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string", "maxLength": 6}, "number": {"type": ["integer", "null"]}},
            "required": ["street", "number"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "roles", "address"],
    "additionalProperties": False,
}
FORMS = {
    "schema": Guide(GuideType.JSON_SCHEMA, json.dumps(PERSON)),
    "regex": Guide(GuideType.REGEX, r"(def|class) [a-z]{2,8}\(\):"),
    "gbnf": Guide(GuideType.EBNF_GRAMMAR, 'root ::= item ("," item)* "."\nitem ::= [a-c]+ | "import os"'),
    "lark": Guide(GuideType.LARK, 'start: "return " NAME ("\\n" "return " NAME){3}\nNAME: /[a-z]{1,4}/'),
}
TURN = turn_guide([("store", PERSON, True), ("other", None, False)], None, None)
