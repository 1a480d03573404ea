"""Token ids in, text out: the ensemble's last step."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from nimble_coder.text.tokenizer import TextTokenizer
from nimble_coder.triton.text_models import postprocess


class TritonPythonModel:
    """Tensor names and shapes as in tensorrtllm_backend v0.19.0."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._directory = Path(parameters["tokenizer_dir"]["string_value"])
        self._skip_special = parameters["skip_special_tokens"]["string_value"].lower() == "true"

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        """Read at the first request: the gateway does not use this model, and reading takes a core half a second, just
        when the engine loads, and holds 100 MB."""
        return TextTokenizer(self._directory)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tokens, lengths = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("TOKENS_BATCH", "SEQUENCE_LENGTH")
        )
        try:
            texts = postprocess(self._tokenizer, tokens, lengths, self._skip_special)
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", texts)])
