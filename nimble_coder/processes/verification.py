"""Runs a new engine behind Triton, as it will be served, and lets the build stage judge what it generates."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_engine.artifact import ENGINE_MODEL, PLAIN_MODEL
from build_engine.checkpoint import Checkpoint
from build_engine.lookahead import LookaheadConfig
from build_engine.profiles import Profile
from build_engine.verify import Batch, Progress, Verification, VerificationError, verify, verify_companion
from nimble_coder.client.grpc import Completion, CompletionClient, CompletionError
from nimble_coder.processes.errors import TritonError
from nimble_coder.processes.triton import Addresses, TritonServer
from nimble_coder.processes.work_directory import WorkDirectory

LOADING = 900.0
"""Seconds that a large engine may take to load."""
GENERATING = 3600.0
"""Seconds for everything it is asked; an engine that hangs would otherwise keep the build for ever."""


class ServedEngine:
    """Implements `build_engine.verify.Engine` over gRPC."""

    def __init__(self, client: CompletionClient, model: str = ENGINE_MODEL) -> None:
        self._client, self._model = client, model

    def encode(self, text: str) -> list[int]:
        """See `Engine.encode`."""
        return self._client.encode(text)

    def generate(self, prompts: Sequence[list[int]], max_tokens: int, lookahead: LookaheadConfig | None) -> Batch:
        """See `Engine.generate`."""

        def one(prompt: list[int]) -> Completion:
            return self._client.stream_tokens(prompt, max_tokens, lookahead, self._model).finish()

        with ThreadPoolExecutor(len(prompts)) as pool:
            started = time.perf_counter()
            done = list(pool.map(one, prompts))
            seconds = time.perf_counter() - started
        decoded = sum(len(each.token_ids) - 1 for each in done)
        steps = decoded - sum(each.accepted_draft_tokens for each in done)
        return Batch([each.token_ids for each in done], seconds, decoded / steps if steps else 1.0)


def verify_served(profile: Profile, repository: Path, checkpoint: Checkpoint, progress: Progress) -> Verification:
    """Serves the repository on free ports and verifies its engine; raises `VerificationError`."""
    work = WorkDirectory("verify")
    try:
        with TritonServer(repository, Addresses.free(), log=work.create() / "triton.log") as server:
            server.wait_ready(LOADING)
            # Its end breaks the streams that the client waits for.
            watchdog = threading.Timer(GENERATING, server.stop)
            watchdog.start()
            try:
                from build_engine.reference import Reference  # noqa: PLC0415 - PyTorch takes seconds to load

                with CompletionClient(server.addresses.grpc) as client:
                    reference = Reference(checkpoint)
                    if (repository / PLAIN_MODEL).is_dir():
                        verify_companion(ServedEngine(client, PLAIN_MODEL), profile, reference, progress)
                    return verify(ServedEngine(client), profile, reference, progress)
            finally:
                watchdog.cancel()
    except TritonError as error:
        raise VerificationError(f"Triton cannot serve the engine: {error}") from None
    except CompletionError as error:
        raise VerificationError(f"the engine failed while generating: {error}") from None
    finally:
        work.remove()
