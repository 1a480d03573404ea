"""How long the parts of a service have to end, by what ended it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nimble_coder.processes.serving import END_SECONDS, GATEWAY_SECONDS, TRITON_SECONDS, Serving


class Parts:
    """Triton and the gateways, of which the latter are interrupted so many times while they end."""

    def __init__(self, serving: Serving, interrupted: int = 0) -> None:
        self.graces: list[tuple[str, float]] = []
        self._left = interrupted
        serving.gateways = SimpleNamespace(stop=self._stop_gateways, check_drained=lambda: None)  # type: ignore[assignment]
        serving.triton = SimpleNamespace(stop=self._stop_triton, check=lambda: None)  # type: ignore[assignment]
        serving._work = SimpleNamespace(remove=lambda: None)  # type: ignore[assignment]

    def _stop_gateways(self, grace: float) -> None:
        self.graces.append(("gateways", grace))
        if self._left:
            self._left -= 1
            raise KeyboardInterrupt

    def _stop_triton(self, grace: float) -> None:
        self.graces.append(("triton", grace))


@pytest.fixture
def serving() -> Serving:
    return Serving(Path("artefact"), drain_seconds=20.0)


def test_what_runs_has_the_time_of_the_drain(serving: Serving) -> None:
    parts = Parts(serving)
    serving.__exit__(None, None, None)
    assert parts.graces == [("gateways", 20.0 + GATEWAY_SECONDS), ("triton", TRITON_SECONDS)]
    assert GATEWAY_SECONDS + TRITON_SECONDS <= END_SECONDS


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_signal_behind_the_first_waits_for_nothing(serving: Serving, error: type[BaseException]) -> None:
    """One that comes while the service says that it stops is such a one."""
    parts = Parts(serving)
    serving.__exit__(error, error(), None)
    assert parts.graces == [("gateways", 0.0), ("triton", 0.0)]


def test_the_gateways_are_told_where_the_second_signal_came_before_the_first_was_passed_on(serving: Serving) -> None:
    parts = Parts(serving, interrupted=1)
    with pytest.raises(KeyboardInterrupt):
        serving.__exit__(None, None, None)
    assert parts.graces == [
        ("gateways", 20.0 + GATEWAY_SECONDS),
        ("triton", 0.0),
        ("gateways", 0.0),
        ("triton", 0.0),
    ]
