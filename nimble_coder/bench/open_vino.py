"""OpenVINO GenAI as a peer: a GGUF file as it reads one itself, greedily, one prompt at a time.

Needs `pip install openvino-genai` (2026.4 does not read files with blocks of Q5_0, as the 0.5B's Q4_K_M has).
"""

import time
from pathlib import Path

import numpy as np


class OpenVino:
    """A loaded model. Raises `ImportError` where OpenVINO GenAI is not installed."""

    def __init__(self, path: Path, threads: int, drafts: int = 0) -> None:
        """`drafts`: the tokens of a draft by prompt lookup, its own way to draft without a model."""
        import openvino  # noqa: PLC0415
        import openvino_genai  # noqa: PLC0415

        self._api, self._tensor = openvino_genai, openvino.Tensor
        self._drafts = drafts
        scheduling = openvino_genai.SchedulerConfig()
        scheduling.enable_prefix_caching = False  # each prompt is computed anew
        scheduling.cache_size = 1  # GiB
        self._model = openvino_genai.LLMPipeline(
            str(path),
            "CPU",
            scheduler_config=scheduling,
            INFERENCE_NUM_THREADS=threads,
            **({"prompt_lookup": True} if drafts else {}),
        )

    def decoding(self, count: int, ids: list[int]) -> float:
        """Tokens per second behind a prompt, from the first to the last of `count`."""
        times: list[tuple[float, int]] = []

        def note(tokens: list[int] | int) -> object:
            times.append((time.perf_counter(), len(tokens) if isinstance(tokens, list) else 1))
            return self._api.StreamingStatus.RUNNING

        self._generate(ids, count, note)
        (first, at_first), (last, _) = times[0], times[-1]
        return (sum(tokens for _, tokens in times) - at_first) / (last - first)

    def read(self, ids: list[int]) -> None:
        """Computes a prompt, up to its first token."""
        self._generate(ids, 1, None)

    def _generate(self, ids: list[int], count: int, note: object) -> None:
        config = self._api.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        if self._drafts:
            config.num_assistant_tokens, config.max_ngram_size = self._drafts, 3
        row = np.array([ids], np.int64)
        inputs = self._api.TokenizedInputs(self._tensor(row), self._tensor(np.ones_like(row)))
        self._model.generate(inputs, config, *([self._streamer(note)] if note else []))

    def _streamer(self, note: object) -> object:
        class Streamer(self._api.StreamerBase):  # type: ignore[name-defined, misc]
            def write(self, tokens: list[int] | int) -> object:
                return note(tokens)  # type: ignore[operator]

            def end(self) -> None:
                pass

        return Streamer()
