"""The settings: documented, typed, and never shown with their secrets."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from nimble_coder.gateway.settings import GatewaySettings

DOCS = Path(__file__).parents[2] / "docs" / "gateway.md"
NEEDED = {
    "NIMBLE_ARTIFACT": "/artifact",
    "NIMBLE_TRITON_HTTP_PORT": "1",
    "NIMBLE_TRITON_GRPC_PORT": "2",
    "NIMBLE_TRITON_METRICS_PORT": "3",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_every_setting_is_documented() -> None:
    text = DOCS.read_text()
    own = [name for name, field in GatewaySettings.model_fields.items() if field.validation_alias is None]
    assert [name for name in own if f"`NIMBLE_{name.upper()}`" not in text] == []


def test_lists_are_comma_separated(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NIMBLE_SERVED_MODEL_NAMES", "a, b,,c")
    environment.setenv("NIMBLE_CORS_ORIGINS", "*")
    settings = GatewaySettings()  # type: ignore[call-arg]
    assert (settings.names, settings.origins) == (["a", "b", "c"], ["*"])


def test_secrets_are_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NIMBLE_API_KEYS", "very-secret")
    environment.setenv("NIMBLE_ADMIN_KEY", "also-secret")
    assert "secret" not in repr(GatewaySettings()).replace("SecretStr", "")  # type: ignore[call-arg]


def test_a_value_of_the_wrong_type_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NIMBLE_HTTP_PORT", "eighty")
    with pytest.raises(ValidationError, match=r"NIMBLE_HTTP_PORT|http_port"):
        GatewaySettings()  # type: ignore[call-arg]
