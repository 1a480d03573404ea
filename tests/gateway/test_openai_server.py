"""A server of OpenAI's API is timed as a peer of the engine."""

import pytest

from nimble_coder.bench.openai_server import OpenAIServer
from nimble_coder.processes.serving import Serving

IDS = [9, 8, 7, 6, 5, 4]


def test_a_server_is_timed_from_its_first_token_to_its_last(gateway: Serving) -> None:
    server = OpenAIServer(gateway.addresses.http + "/")
    times = list(server._stream(3000, IDS))
    assert times[-1][1] == 3000
    assert times == sorted(times)
    assert times[0][1] < 3000
    assert server.decoding(3000, IDS) > 0
    server.read(IDS)
    with pytest.raises(ValueError, match="all 1 tokens came at once"):
        server.decoding(1, IDS)
