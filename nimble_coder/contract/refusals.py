"""What an engine's refusals mean, by their texts: Triton passes on nothing else of an error on a stream."""

import re

ENGINE_LOST = "engine_lost"
"""The code of an error that means: the engine's process has died, with every generation in it."""

# Triton's C++ backend reports everything as INTERNAL, so the text decides (TensorRT-LLM 0.19 and our portable twin).
BY_TEXT: list[tuple[re.Pattern[str], int, str]] = [
    (re.compile(r"Stub process .* is not healthy"), 503, ENGINE_LOST),
    (re.compile(r"unknown model"), 404, "model_not_found"),
    (
        re.compile(
            r"expected number of inputs|data-type is|unexpected total byte size|unable to find data for input tensor"
            r"|unexpected (explicit tensor|additional input) data|additional bytes for model"
            r"|unexpected inference (in|out)put"
            r"|(string (elements( \d+)?|data|length indicator)|bytes) for inference input"
            r"|byte size mismatch for input|batch[- ]size (must be|does not match)|has no shape but model requires"
            r"|invalid value (type )?for|reserved for Triton usage|model version specified|version string"
            r"|(must|must not|can ?not) be specified (along|without|when)"
        ),
        400,
        "invalid_input",
    ),
    (re.compile(r"Prompt length \(\d+\) exceeds"), 400, "context_length_exceeded"),
    (
        re.compile(r"maximum queue size|queue is full|Exceeds maximum queue size", re.IGNORECASE),
        429,
        "engine_queue_full",
    ),
    (
        re.compile(r"unable to parse|failed to parse|attempt to (access JSON|get members)", re.IGNORECASE),
        400,
        "invalid_input",
    ),
    (
        re.compile(
            r"lookahead|request_output_len|input_ids|input_lengths|(stop|bad)_words|logit_bias|guided_decoding|draft_tokens|drafting"
            r"|num_return_sequences|beam_width|min_length|the prompt |send the prompts as separate"
            r"|request ID is not provided|is not a number|not valid UTF-8|already exists in request"
        ),
        400,
        "invalid_input",
    ),
    (
        re.compile(r"is not supported|out of range|Streaming is only supported|expects|unexpected (shape|datatype)"),
        400,
        "unsupported",
    ),
    (re.compile(r"not ready|unavailable|failed to connect|connection", re.IGNORECASE), 503, "engine_unavailable"),
]
