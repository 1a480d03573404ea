"""The same streaming route written the usual way, for comparison only: FastAPI, a pydantic model and a fresh decode of
the whole text for every message, and Triton's own asyncio client.

    python -m nimble_coder.bench.usual_front PORT TRITON_GRPC TOKENIZER_DIRECTORY
"""

import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from nimble_coder.client.grpc import tensors
from nimble_coder.text.tokenizer import TextTokenizer


class Asked(BaseModel):
    """The request."""

    prompt: str
    max_tokens: int = 16
    stream: bool = True


class Choice(BaseModel):
    """A chunk's choice."""

    index: int = 0
    text: str
    finish_reason: str | None = None


class Chunk(BaseModel):
    """A chunk."""

    id: str = "cmpl-1"
    object: str = "text_completion"
    created: int
    model: str = "demo"
    choices: list[Choice]


def build_app(triton_address: str, tokenizer: TextTokenizer) -> FastAPI:
    """The application."""
    app = FastAPI()
    clients: list[Any] = []

    async def stream(asked: Asked) -> AsyncIterator[str]:
        if not clients:
            clients.append(triton.InferenceServerClient(triton_address))
        ids = tokenizer.encode(asked.prompt)
        inputs = {
            "input_ids": np.array([ids], np.int32),
            "input_lengths": np.array([[len(ids)]], np.int32),
            "request_output_len": np.array([[asked.max_tokens]], np.int32),
            "streaming": np.array([[True]]),
        }

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {
                "model_name": "tensorrt_llm",
                "inputs": tensors(inputs),
                "enable_empty_final_response": True,
            }

        tokens: list[int] = []
        sent = ""
        async for result, error in clients[0].stream_infer(requests()):
            if error is not None:
                raise error
            found = result.as_numpy("output_ids")
            tokens += found.reshape(-1).tolist() if found is not None else []
            text = tokenizer.decode(tokens)
            chunk = Chunk(created=int(time.time()), choices=[Choice(text=text[len(sent) :])])
            sent = text
            yield f"data: {chunk.model_dump_json()}\n\n"
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        yield "data: [DONE]\n\n"

    @app.post("/v1/completions")
    async def completions(asked: Asked) -> StreamingResponse:
        return StreamingResponse(stream(asked), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    port, address, directory = sys.argv[1:]
    uvicorn.run(build_app(address, TextTokenizer(Path(directory))), port=int(port), log_level="warning")
