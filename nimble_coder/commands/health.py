"""Asks the service on this machine how it is, on the metrics port, which has neither keys nor TLS."""

import json
import urllib.error
import urllib.request

from nimble_coder.processes.triton import Addresses

SECONDS = 5


def ask(addresses: Addresses, what: str) -> tuple[bool, str]:
    """Whether it is `live` or `ready`, and what it says, in one line."""
    url = f"http://{addresses.peer}:{addresses.metrics_port}/v1/health/{what}"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return True, str(json.load(answer)["message"])
    except urllib.error.HTTPError as error:
        return False, message(error.read())
    except (OSError, ValueError) as error:
        return False, f"not {what}: {url} does not answer ({getattr(error, 'reason', error)})"


def message(body: bytes) -> str:
    """The text of a health answer; the gateway's refusals have OpenAI's shape."""
    try:
        content = json.loads(body)
        return str(content["message"] if "message" in content else content["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip()
