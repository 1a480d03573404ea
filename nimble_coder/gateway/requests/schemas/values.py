"""What a value of a request may be: the engine's bounds as types of fields."""

from typing import Annotated

from msgspec import Meta

from nimble_coder.contract.bounds import BIAS, FACTOR, MOST_TOP, PENALTY, SHARE, TEMPERATURE, Bounds


def within(bounds: Bounds) -> Meta:
    """The engine's bounds of a number as those of a field."""
    return Meta(ge=bounds.least, le=bounds.most)


Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Length = Annotated[int, Meta(ge=-2, le=2**63 - 1)]
"""Tokens of an answer. Below 0 are as many as fit, -1 being llama.cpp's and Ollama's, -2 Ollama's; above that a program
may send the largest number that it has."""
Kept = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
"""So many of a prompt's last tokens; -1 for as many as fit."""
Alternatives = Annotated[int, Meta(ge=0, le=MOST_TOP)]
Share = Annotated[float, within(SHARE)]
Penalty = Annotated[float, within(PENALTY)]
Factor = Annotated[float, within(FACTOR)]
Milliseconds = Annotated[float, Meta(ge=-1, le=86_400_000)]
Copies = Annotated[int, Meta(ge=1, le=16)]
Temperature = Annotated[float, within(TEMPERATURE)]
Bias = Annotated[float, within(BIAS)]
Biases = Annotated[dict[str, Bias], Meta(max_length=1024)]
BiasPairs = Annotated[list[tuple[int | str, Bias | bool]], Meta(max_length=1024)]
StopString = Annotated[str, Meta(max_length=1024)]
Stops = Annotated[list[StopString], Meta(max_length=64)]
