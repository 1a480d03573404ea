"""Answers held to JSON Schemas through a running service, beside plain decoding of the same prompts without a form.

    NIMBLE_SHARE_DRAFTS=false nimble-coder serve ARTEFACT      # or the second answer is drafted from the first
    scripts/bench forms [--url http://127.0.0.1:8000] [--rounds 4]

Each question is asked by turns: plainly and without a form, which the speed is measured against; with a schema that is
new to the service, and with the same one again, drafting as the service drafts. Greedily, one request at a time, and
with no more tokens than the held answer has. The first token's time is from the request to the first chunk; the speed
is that of the tokens behind it.
"""

import argparse
import json
import time
import urllib.request
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Any

from rich.progress import track

from nimble_coder.bench.arguments import positive_int
from nimble_coder.bench.asking import URL, asking

TEXT, NUMBER, WHOLE = {"type": "string", "maxLength": 60}, {"type": "number"}, {"type": "integer", "maximum": 99999}


def thing(**properties: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def several(items: Any, least: int, most: int) -> dict[str, Any]:
    """A list of so many."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "person": (
        "Invent a customer of a shop, as JSON.",
        thing(first_name=TEXT, last_name=TEXT, email=TEXT, age=WHOLE, address=thing(street=TEXT, city=TEXT, zip=TEXT)),
    ),
    "review": (
        "Review this function as JSON: def add(a, b): return a - b",
        thing(
            issues=several(thing(line=WHOLE, severity={"enum": ["low", "medium", "high"]}, message=TEXT), 1, 3),
            approved={"type": "boolean"},
            summary=TEXT,
        ),
    ),
    "invoice": (
        "Write an invoice for two laptops and a mouse, as JSON.",
        thing(
            number=TEXT,
            lines=several(thing(description=TEXT, quantity=WHOLE, unit_price=NUMBER), 2, 3),
            currency={"enum": ["EUR", "USD", "GBP"]},
            total=NUMBER,
        ),
    ),
    "issue": (
        "File an issue about a login page that shows a blank screen, as JSON.",
        thing(title=TEXT, body=TEXT, labels=several({"enum": ["bug", "frontend", "backend"]}, 1, 2), priority=WHOLE),
    ),
    "columns": (
        "Describe the columns of a table of orders, as JSON.",
        several(thing(name=TEXT, type={"enum": ["text", "integer", "timestamp"]}, nullable={"type": "boolean"}), 4, 6),
    ),
}
WAYS = ("none", "new", "cached")
"""Of a form: none and plain decoding, one that the service has never seen, the same again."""
NUMBERS = count(time.time_ns())


@dataclass(frozen=True)
class Answer:
    """What one request brought."""

    first: float
    """Seconds until its first token."""
    speed: float
    """Tokens a second behind the first chunk."""
    tokens: int


def ask(url: str, body: dict[str, Any]) -> Answer:
    """Streams one answer."""
    content = json.dumps({**body, "stream": True, "return_token_ids": True, "temperature": 0}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", content)  # noqa: S310
    request.add_header("content-type", "application/json")
    started, times, tokens = time.perf_counter(), list[float](), list[int]()
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                if ids := choice.get("token_ids"):
                    times.append(time.perf_counter())
                    tokens.append(len(ids))
    taken = times[-1] - times[0]
    return Answer(times[0] - started, sum(tokens[1:]) / taken if taken else 0.0, sum(tokens))


def round_of(url: str, question: str, schema: dict[str, Any]) -> dict[str, Answer]:
    """The three ways of asking one question, by turns."""
    messages = [{"role": "user", "content": question}]
    marked = {**schema, "title": str(next(NUMBERS))}  # changes nothing but what the service has seen
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": marked, "strict": True}}
    ask(url, {"messages": messages, "max_tokens": 1})  # the prompt is in the cache for all three
    held: dict[str, Any] = {"messages": messages, "max_tokens": 400, "response_format": form}
    new, cached = ask(url, held), ask(url, held)
    plain = {"messages": messages, "lookahead": False, "ignore_eos": True, "max_tokens": max(new.tokens, 2)}
    return {"none": ask(url, plain), "new": new, "cached": cached}


def table(rounds: dict[str, list[dict[str, Answer]]]) -> str:
    """A row a question, medians, and one for all."""
    rows = ["| question | tokens | plain, no form | held | speed | first token, new form | first token, cached form |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, of in [*rounds.items(), ("all", [each for some in rounds.values() for each in some])]:
        plain, held = (median(each[way].speed for each in of) for way in ("none", "cached"))
        ratio = median(each["cached"].speed / each["none"].speed for each in of)
        later = [median(1000 * (each[way].first - each["none"].first) for each in of) for way in ("new", "cached")]
        tokens = median(each["cached"].tokens for each in of)
        rows.append(
            f"| {name} | {tokens:.0f} | {plain:.1f}/s | {held:.1f}/s | {ratio:.2f}x | "
            f"{later[0]:+.1f} ms | {later[1]:+.1f} ms |"
        )
    return "\n".join(rows)


def main() -> None:
    """Asks and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=URL, help="of the service's HTTP endpoint")
    parser.add_argument("--rounds", type=positive_int, default=4)
    args = parser.parse_args()
    rounds: dict[str, list[dict[str, Answer]]] = {name: [] for name in QUESTIONS}
    with asking(args.url) as url:
        for _ in track(range(args.rounds), "Rounds"):
            for name, (question, schema) in QUESTIONS.items():
                rounds[name].append(round_of(url, question, schema))
    print(table(rounds))


if __name__ == "__main__":
    main()
