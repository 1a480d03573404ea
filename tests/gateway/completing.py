"""The least that each route which writes text can be asked."""

from typing import Any

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "import os"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/fim/completions": {"prompt": "import os"},
    "/infill": {"input_prefix": "import os"},
    "/completion": {"prompt": "import os"},
}
