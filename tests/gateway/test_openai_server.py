"""A server of OpenAI's API is timed as a peer of the engine."""

from nimble_coder.bench.openai_server import OpenAIServer
from nimble_coder.processes.serving import Serving

IDS = [9, 8, 7, 6, 5, 4]


def test_a_server_is_timed_from_its_first_token_to_its_last(gateway: Serving) -> None:
    server = OpenAIServer(gateway.addresses.http + "/")
    times = list(server._stream(40, IDS))
    assert times[-1][1] == 40
    assert times == sorted(times)
    assert times[0][1] < 40
    assert server.decoding(40, IDS) > 0
    server.read(IDS)
