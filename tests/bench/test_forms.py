"""The benchmark of answers held to forms, against a real service."""

import sys

import pytest
from jsonschema import Draft202012Validator

from nimble_coder.bench import forms
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import gateway

__all__ = ["gateway"]


def test_it_asks_and_prints_a_row_a_question(
    gateway: Serving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["forms", "--url", gateway.addresses.http, "--rounds", "1"])
    monkeypatch.setattr(forms, "QUESTIONS", {"person": forms.QUESTIONS["person"]})
    forms.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == ["question", "person", "all"]


@pytest.mark.parametrize("name", forms.QUESTIONS)
def test_its_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(forms.QUESTIONS[name][1])
