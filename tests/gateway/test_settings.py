"""What a gateway process reads from its environment."""

import pytest
from pydantic import ValidationError

from nimble_coder.gateway.settings import GatewaySettings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("NIMBLE_ARTIFACT", "/artifact")
    return monkeypatch


def test_lists_are_comma_separated(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NIMBLE_SERVED_MODEL_NAMES", "a, b,,c")
    environment.setenv("NIMBLE_CORS_ORIGINS", "*")
    settings = GatewaySettings()  # type: ignore[call-arg]
    assert (settings.names, settings.origins) == (["a", "b", "c"], ["*"])


def test_an_empty_variable_counts_as_not_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NIMBLE_TLS_KEY", "")
    environment.setenv("NIMBLE_MAX_MODEL_LEN", "")
    settings = GatewaySettings()  # type: ignore[call-arg]
    assert (settings.tls_key, settings.max_model_len) == (None, None)


def test_secrets_are_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NIMBLE_API_KEYS", "very-secret")
    environment.setenv("NIMBLE_ADMIN_KEY", "also-secret")
    assert "secret" not in repr(GatewaySettings()).replace("SecretStr", "")  # type: ignore[call-arg]


def test_a_value_of_the_wrong_type_is_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NIMBLE_HTTP_PORT", "eighty")
    with pytest.raises(ValidationError, match=r"NIMBLE_HTTP_PORT|http_port"):
        GatewaySettings()  # type: ignore[call-arg]
