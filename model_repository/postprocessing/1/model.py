"""Token ids in, text out: the ensemble's last step."""

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from nimble_coder.text.tokenizer import TextTokenizer
from nimble_coder.triton.text_models import postprocess


class TritonPythonModel:
    """Tensor names and shapes as in tensorrtllm_backend v0.19.0."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        # The gateway does not use this model, and the vocabulary takes half a second of a core just when the engine
        # loads, and 80 MB.
        self._tokenizer = TextTokenizer(Path(parameters["tokenizer_dir"]["string_value"]), is_late=True)
        self._skip_special = parameters["skip_special_tokens"]["string_value"].lower() == "true"

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
