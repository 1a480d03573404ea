"""Every field that clients send, and what becomes of it: honoured, accepted as neutral, ignored and said, or refused.

Names and meaning: OpenAI's API reference; vLLM's OpenAI server (`CompletionRequest`, `ChatCompletionRequest`) and its
older `guided_*`; llama.cpp's tools/server/README.md; NIM's `nvext`; the ensemble's inputs in tensorrtllm_backend
v0.19.0, which Triton's generate front takes as fields; Ollama's, which editors send to any server.

A route honours what its type in `schemas/` reads; this table says the rest. What forces the form of an answer or
forbids tokens is refused where it cannot be honoured, since an answer without it would be wrong; what else is passed
over is named in the header `x-nimble-ignored`. `NIMBLE_STRICT_SAMPLING` refuses that too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from nimble_coder.contract.fields import SCALARS


class Engine(IntEnum):
    """What an engine can do; each does what those before it do."""

    GREEDY = 0
    """TensorRT's with lookahead."""
    SAMPLING = 1
    """TensorRT's without lookahead."""
    PORTABLE = 2


class Otherwise(Enum):
    """What becomes of a field that is neither honoured nor neutral."""

    ACCEPTED = "accepted: it changes no answer"
    IGNORED = "ignored, and said so"
    REFUSED = "refused"


@dataclass(frozen=True)
class Field:
    """One field, at any route. `outer.inner` is a field of an object."""

    name: str
    of: str
    """Whose it is."""
    example: Any
    """A value that asks for something."""
    neutral: tuple[Any, ...] = ()
    """What asks for nothing, beside null."""
    otherwise: Otherwise = Otherwise.IGNORED
    needs: Engine = Engine.GREEDY
    """Honoured by such an engine only."""


OPENAI, VLLM, LLAMA, NIM, TRITON, OLLAMA = "OpenAI", "vLLM", "llama.cpp", "NIM", "Triton", "Ollama"
MISTRAL, ANTHROPIC, GOOGLE, OWN = "Mistral", "Anthropic", "Google", "Nimble Coder"
SDK, LITELLM = "OpenAI's SDK", "LiteLLM"
ACCEPTED, IGNORED, REFUSED = Otherwise.ACCEPTED, Otherwise.IGNORED, Otherwise.REFUSED
SAMPLING, PORTABLE = Engine.SAMPLING, Engine.PORTABLE
EMPTY: tuple[Any, ...] = ("", [], {})
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object"}

PROMPTS = (
    Field("model", OPENAI, "qwen2.5-coder", ("",)),
    Field("prompt", OPENAI, "import os", otherwise=REFUSED),
    Field("input", OPENAI, "hi"),
    Field("instructions", OPENAI, "Be brief.", ("",)),
    Field("previous_response_id", OPENAI, "resp_1", ("",), REFUSED),
    Field("conversation", OPENAI, "conv_1", ("", {}), REFUSED),
    Field("context_management", OPENAI, [{"type": "compaction"}], ([],)),
    Field("truncation", OPENAI, "auto", ("disabled",)),
    Field("reasoning", OPENAI, {"effort": "high"}, ({}, {"effort": None}, {"effort": "none"})),
    Field("suffix", OPENAI, "\n"),
    Field("echo", OPENAI, True, (False,)),
    Field("messages", OPENAI, [{"role": "user", "content": "hi"}]),
    Field("tools", OPENAI, [TOOL], ([],)),
    Field("tool_choice", OPENAI, "required", ("none", "auto")),
    Field("parallel_tool_calls", OPENAI, False, (True,)),
    Field("functions", OPENAI, [TOOL["function"]], ([],)),
    Field("function_call", OPENAI, {"name": "now"}, ("none", "auto")),
    Field("audio", OPENAI, {"voice": "alloy", "format": "wav"}, ({},), REFUSED),
    Field("modalities", OPENAI, ["text", "audio"], (["text"], []), REFUSED),
    Field("web_search_options", OPENAI, {"search_context_size": "low"}, ({},)),
    Field("prediction", OPENAI, {"type": "content", "content": "x"}),
    Field("reasoning_effort", OPENAI, "high", ("none",)),
    Field("verbosity", OPENAI, "low", ("medium",)),
    Field("prompt_mode", MISTRAL, "reasoning"),
    Field("safe_prompt", MISTRAL, True, (False,)),
    Field("add_generation_prompt", VLLM, False, (True,)),
    Field("continue_final_message", VLLM, True, (False,)),
    Field("add_special", LLAMA, True, otherwise=ACCEPTED),
    Field("add_special_tokens", VLLM, True, otherwise=ACCEPTED),
    Field("chat_template", VLLM, "{{ messages }}", ("",), REFUSED),
    Field("chat_template_kwargs", VLLM, {"enable_thinking": False}, ({},)),
    Field("documents", VLLM, [{"title": "a", "text": "b"}], ([],), REFUSED),
    Field("include_reasoning", VLLM, True, otherwise=ACCEPTED),
    Field("thinking_token_budget", VLLM, 100),
    Field("truncate_prompt_tokens", VLLM, 8),
    Field("prompt_embeds", VLLM, "AAAA", EMPTY, REFUSED),
    Field("mm_processor_kwargs", VLLM, {"a": 1}, ({},)),
    Field("media_io_kwargs", VLLM, {"a": {}}, ({},)),
    Field("input_prefix", LLAMA, "import os\n"),
    Field("input_suffix", LLAMA, "\n"),
    Field("input_extra", LLAMA, [{"text": "x = 1\n", "filename": "a.py"}], ([],)),
    Field("n_indent", LLAMA, 4, (0,)),
    Field("image_data", LLAMA, [{"data": "AAAA", "id": 1}], ([],), REFUSED),
    Field("chat_format", LLAMA, 1, (0,)),
    Field("reasoning_format", LLAMA, "deepseek", ("none", "auto")),
    Field("parse_tool_calls", LLAMA, True, (False,)),
    Field("thinking_forced_open", LLAMA, True, (False,)),
    Field("text_input", TRITON, "import os"),
    Field("decoder_text_input", TRITON, "x", ("",), REFUSED),
    Field("image_input", TRITON, [1.0], EMPTY, REFUSED),
    Field("image_bytes_input", TRITON, "AAAA", EMPTY, REFUSED),
    Field("image_url_input", TRITON, "https://a", EMPTY, REFUSED),
    Field("video_bytes_input", TRITON, "AAAA", EMPTY, REFUSED),
    Field("prompt_embedding_table", TRITON, [1.0], ([],), REFUSED),
    Field("prompt_vocab_size", TRITON, 1, (0,)),
    Field("images", OLLAMA, ["AAAA"], ([],), REFUSED),
    Field("system", OLLAMA, "Be brief.", ("",)),
    Field("template", OLLAMA, "{{ .Prompt }}", ("",)),
    Field("context", OLLAMA, [1], ([],)),
    Field("raw", OLLAMA, True, otherwise=ACCEPTED),
    Field("think", OLLAMA, True, (False,)),
    Field("repo_name", OWN, "repo"),
    Field("filename", OWN, "a.py"),
)
"""What the model reads."""

CHOOSING = (
    Field("temperature", OPENAI, 0.5, (0,), needs=SAMPLING),
    Field("top_p", OPENAI, 0.5, (1,), ACCEPTED, SAMPLING),
    Field("seed", OPENAI, 7, (), ACCEPTED, SAMPLING),
    Field("random_seed", f"{MISTRAL}, {TRITON}", 7, otherwise=IGNORED),
    *(
        Field(name, s.api, s.example, (int(s.neutral),), needs=SAMPLING if s.datatype else PORTABLE)
        for name, s in SCALARS.items()
        if s.api
    ),
    Field("logit_bias", OPENAI, {"5": -100}, EMPTY, REFUSED, PORTABLE),
    Field("best_of", OPENAI, 2, (1,), REFUSED),
    Field("top_k", VLLM, 5, (-1, 0), ACCEPTED, SAMPLING),
    Field("bad_words", f"{VLLM}, {TRITON}", ["import"], EMPTY, REFUSED, SAMPLING),
    Field("allowed_token_ids", VLLM, [5, 6], ([],), REFUSED),
    Field("use_beam_search", VLLM, True, (False,), REFUSED),
    Field("length_penalty", f"{VLLM}, {TRITON}", 0.5, (0, 1)),
    Field("early_stopping", f"{VLLM}, {TRITON}", True, (False,)),
    Field("logits_processors", VLLM, ["a.B"], ([],), REFUSED),
    Field("repetition_detection", VLLM, {"max_pattern_size": 4}, ({},)),
    Field("lookahead", OWN, False),
    Field("draft_tokens", OWN, 4, needs=PORTABLE),
    Field("drafting", OWN, "suffixes", ("",), needs=PORTABLE),
    Field("repeat_penalty", LLAMA, 1.1, (1,)),
    Field("repeat_last_n", LLAMA, 64, (-1,)),
    Field("penalize_nl", LLAMA, False, (True,)),
    Field("penalty_prompt", LLAMA, "x", ("",)),
    Field("dynatemp_range", LLAMA, 0.5, (0,)),
    Field("dynatemp_exponent", LLAMA, 2.0, (1,)),
    Field("typical_p", LLAMA, 0.5, (1,)),
    Field("top_n_sigma", LLAMA, 1.0, (-1, 0)),
    Field("xtc_probability", LLAMA, 0.5, (0,)),
    Field("xtc_threshold", LLAMA, 0.2, (0.1,)),
    Field("dry_multiplier", LLAMA, 0.8, (0,)),
    Field("dry_base", LLAMA, 2.0, (1.75,)),
    Field("dry_allowed_length", LLAMA, 3, (2,)),
    Field("dry_penalty_last_n", LLAMA, 64, (-1,)),
    Field("dry_sequence_breakers", LLAMA, ["\n"], ([],)),
    Field("mirostat", LLAMA, 2, (0,)),
    Field("mirostat_tau", LLAMA, 3.0, (5,)),
    Field("mirostat_eta", LLAMA, 0.2, (0.1,)),
    Field("min_keep", LLAMA, 2, (0,)),
    Field("samplers", LLAMA, ["top_k", "infill"], ([],)),
    Field("lora", LLAMA, [{"id": 0, "scale": 1.0}], ([],), REFUSED),
    Field("speculative.n_max", LLAMA, 8, otherwise=ACCEPTED),
    Field("speculative.n_min", LLAMA, 1, otherwise=ACCEPTED),
    Field("speculative.p_min", LLAMA, 0.5, otherwise=ACCEPTED),
    Field("beam_width", TRITON, 2, (1,), REFUSED),
    Field("num_draft_tokens", TRITON, 4, (0,)),
    Field("use_draft_logits", TRITON, True, (False,)),
    Field("embedding_bias_words", TRITON, ["a"], EMPTY, REFUSED),
    Field("embedding_bias_weights", TRITON, [1.0], ([],), REFUSED),
    Field("lora_task_id", TRITON, 1, (0,), REFUSED),
    Field("lora_weights", TRITON, [1.0], ([],), REFUSED),
    Field("lora_config", TRITON, [1], ([],), REFUSED),
    Field("lora_request", f"{VLLM}, TensorRT-LLM", {"lora_name": "a"}, ({},), REFUSED),
    Field("no_repeat_ngram_size", "TensorRT-LLM", 3, (0,), REFUSED),
    Field("top_p_min", "TensorRT-LLM", 0.1, (0,)),
    Field("prompt_ignore_length", "TensorRT-LLM", 4, (0,)),
)
"""How tokens are chosen. The contract declares its penalties and cuts itself."""


def forms(prefix: str, of: str) -> Iterator[Field]:
    """vLLM's and NIM's ways to say a form, whose names begin alike."""
    kinds: tuple[tuple[str, Any, Any], ...] = (
        ("json", SCHEMA, ""),
        ("regex", "a+", ""),
        ("choice", ["a", "b"], []),
        ("grammar", 'root ::= "a"', ""),
        ("json_object", True, False),
    )
    for kind, example, neutral in kinds:
        yield Field(prefix + kind, of, example, (neutral,), REFUSED, SAMPLING)


FORM = (
    Field("response_format", OPENAI, {"type": "json_object"}, ({"type": "text"}, {}), REFUSED, SAMPLING),
    *forms("guided_", f"{VLLM}, {NIM}"),
    Field("text.format", OPENAI, {"type": "json_object"}, ({"type": "text"}, {}), REFUSED, SAMPLING),
    Field("text.verbosity", OPENAI, "low", ("medium",)),
    Field("guided_decoding_backend", VLLM, "xgrammar", ("",)),
    Field("guided_whitespace_pattern", VLLM, " ", ("",)),
    *forms("structured_outputs.", VLLM),
    Field("structured_outputs.structural_tag", VLLM, "{}", ("",), REFUSED),
    Field("structured_outputs.disable_additional_properties", VLLM, True, (False,), REFUSED),
    Field("structured_outputs.disable_any_whitespace", VLLM, True, (False,)),
    Field("structured_outputs.whitespace_pattern", VLLM, " ", ("",)),
    Field("structured_outputs.disable_fallback", VLLM, True, otherwise=ACCEPTED),
    Field("structural_tag", VLLM, "{}", ("",), REFUSED),
    *forms("nvext.guided_", NIM),
    Field("nvext.guided_decoding_backend", NIM, "xgrammar", ("",)),
    Field("nvext.guided_whitespace_pattern", NIM, " ", ("",)),
    Field("nvext.ignore_eos", NIM, True, (False,)),
    Field("nvext.top_k", NIM, 5, (-1, 0)),
    Field("nvext.repetition_penalty", NIM, 1.1, (1,)),
    Field("nvext.greed_sampling", NIM, True, (False,)),
    Field("nvext.use_raw_prompt", NIM, True, (False,)),
    Field("nvext.annotations", NIM, ["formatted_prompt"], ([],)),
    Field("nvext.max_thinking_tokens", NIM, 100),
    Field("max_thinking_tokens", NIM, 100),
    Field("min_thinking_tokens", NIM, 10, (0,)),
    Field("grammar", LLAMA, 'root ::= "a"', ("",), REFUSED, SAMPLING),
    Field("json_schema", LLAMA, SCHEMA, ("",), REFUSED, SAMPLING),
    Field("grammar_lazy", LLAMA, True, (False,)),
    Field("grammar_triggers", LLAMA, [{"type": 0, "value": "a"}], ([],)),
    Field("preserved_tokens", LLAMA, [5], ([],)),
    Field("guided_decoding_guide_type", TRITON, "json_schema", EMPTY, REFUSED),
    Field("guided_decoding_guide", TRITON, "{}", EMPTY, REFUSED),
    Field("format", OLLAMA, "json", ("",), REFUSED),
)  # fmt: skip
"""What forces the form of an answer: a TensorRT engine with lookahead cannot be guided."""

ENDING = (
    Field("max_tokens", OPENAI, 2),
    Field("max_completion_tokens", OPENAI, 2),
    Field("max_output_tokens", OPENAI, 2),
    Field("max_tool_calls", OPENAI, 1),
    Field("stop", OPENAI, ["zzz"], EMPTY),
    Field("n", OPENAI, 2, (1,)),
    Field("stop_token_ids", VLLM, [5], ([],)),
    Field("include_stop_str_in_output", VLLM, True, (False,)),
    Field("ignore_eos", VLLM, True, (False,)),
    Field("min_tokens", VLLM, 1, (0,)),
    Field("n_predict", LLAMA, 2),
    Field("n_cmpl", LLAMA, 2, (1,)),
    Field("n_keep", LLAMA, 4, (0,)),
    Field("n_discard", LLAMA, 4, (0,)),
    Field("t_max_predict_ms", LLAMA, 60_000, (-1, 0)),
    Field("t_max_prompt_ms", LLAMA, 500, (-1, 0)),
    Field("stop_words", TRITON, ["zzz"], EMPTY),
    Field("end_id", TRITON, 5, (-1,)),
    Field("pad_id", TRITON, 5, otherwise=ACCEPTED),
    Field("min_length", TRITON, 1, (0,)),
    Field("num_return_sequences", TRITON, 2, (1,)),
    Field("options.num_predict", OLLAMA, 2),
    Field("options.temperature", OLLAMA, 0.5, (0,), needs=SAMPLING),
    Field("options.stop", OLLAMA, ["zzz"], EMPTY),
)
"""How long an answer is, and how many there are."""

ANSWERING = (
    Field("stream", OPENAI, True, (False,)),
    Field("stream_options.include_usage", OPENAI, True, (False,)),
    Field("stream_options.continuous_usage_stats", VLLM, True, (False,)),
    Field("stream_options.include_obfuscation", OPENAI, True, otherwise=ACCEPTED),
    Field("include", OPENAI, ["message.output_text.logprobs"], ([], ["reasoning.encrypted_content"]), REFUSED),
    Field("logprobs", OPENAI, True, (False,), needs=SAMPLING),
    Field("top_logprobs", OPENAI, 2, (0,), needs=PORTABLE),
    Field("prompt_logprobs", VLLM, 1, (False,)),
    Field("return_token_ids", VLLM, True, (False,)),
    Field("return_tokens_as_token_ids", VLLM, True, (False,)),
    Field("skip_special_tokens", VLLM, False, (True,)),
    Field("spaces_between_special_tokens", VLLM, False, otherwise=ACCEPTED),
    Field("detokenize", "TensorRT-LLM", False, (True,)),
    Field("n_probs", LLAMA, 2, (0,)),
    Field("post_sampling_probs", LLAMA, True, (False,)),
    Field("return_tokens", LLAMA, True, (False,)),
    Field("response_fields", LLAMA, ["content"], ([],)),
    Field("timings_per_token", LLAMA, True, (False,)),
    Field("return_progress", LLAMA, True, (False,)),
    Field("streaming", TRITON, True, (False,)),
    Field("return_log_probs", TRITON, True, (False,)),
    Field("return_context_logits", TRITON, True, (False,)),
    Field("return_generation_logits", TRITON, True, (False,)),
    Field("return_perf_metrics", TRITON, True, (False,)),
    Field("return_num_input_tokens", TRITON, True, (False,)),
    Field("return_num_output_tokens", TRITON, True, (False,)),
    Field("exclude_input_in_output", TRITON, False, (True,)),
)
"""What an answer shows."""

SERVING = (
    Field("user", OPENAI, "me", otherwise=ACCEPTED),
    Field("safety_identifier", OPENAI, "me", otherwise=ACCEPTED),
    Field("metadata", OPENAI, {"a": "b"}, otherwise=ACCEPTED),
    Field("prompt_cache_key", OPENAI, "a", otherwise=ACCEPTED),
    Field("prompt_cache_retention", OPENAI, "24h", ("in_memory", "in-memory")),
    Field("prompt_cache_options", OPENAI, {"mode": "implicit"}, otherwise=ACCEPTED),
    Field("moderation", OPENAI, {"model": "omni-moderation-latest"}),
    Field("store", OPENAI, True, (False,)),
    Field("background", OPENAI, True, (False,), REFUSED),
    Field("service_tier", OPENAI, "flex", ("auto", "default")),
    Field("request_id", f"{VLLM}, {TRITON}", "a", ("",)),
    Field("priority", f"{VLLM}, {TRITON}", 1, (0,)),
    Field("cache_salt", VLLM, "a", ("",)),
    Field("kv_transfer_params", VLLM, {"a": 1}, ({},)),
    Field("vllm_xargs", VLLM, {"a": 1}, ({},)),
    Field("data_parallel_rank", VLLM, 1, (0,)),
    Field("disaggregated_params", "TensorRT-LLM", {"a": 1}, ({},)),
    Field("id_slot", LLAMA, 1, (-1, 0)),
    Field("cache_prompt", LLAMA, False, (True,)),
    Field("keep_alive", OLLAMA, "5m", otherwise=ACCEPTED),
)
"""How a request is served."""

INSIDE = (
    Field("messages.refusal", OPENAI, "No.", ("",)),
    Field("messages.prefix", f"{MISTRAL}, DeepSeek", True, (False,)),
    Field("messages.name", OPENAI, "ann", otherwise=ACCEPTED),
    Field("messages.id", OPENAI, "msg_1", otherwise=ACCEPTED),
    Field("messages.parsed", SDK, {"a": 1}, otherwise=ACCEPTED),
    Field("messages.tool_call_id", OPENAI, "call_1", otherwise=ACCEPTED),
    Field("messages.tool_calls.index", OPENAI, 1, otherwise=ACCEPTED),
    Field("messages.tool_calls.function.parsed_arguments", SDK, {"a": 1}, otherwise=ACCEPTED),
    Field("messages.tool_calls.extra_content", GOOGLE, {"google": {"thought_signature": "AAAA"}}, otherwise=ACCEPTED),
    Field("messages.tool_calls.provider_specific_fields", LITELLM, {"a": 1}, otherwise=ACCEPTED),
    Field("messages.audio", OPENAI, {"id": "audio_1"}, ({},), REFUSED),
    Field("messages.images", OLLAMA, ["AAAA"], ([],), REFUSED),
    Field("messages.reasoning", VLLM, "Hm.", otherwise=ACCEPTED),
    Field("messages.reasoning_content", VLLM, "Hm.", otherwise=ACCEPTED),
    Field("messages.provider_specific_fields", LITELLM, {"a": 1}, otherwise=ACCEPTED),
    Field("messages.cache_control", ANTHROPIC, {"type": "ephemeral"}, otherwise=ACCEPTED),
    Field("messages.content.cache_control", ANTHROPIC, {"type": "ephemeral"}, otherwise=ACCEPTED),
    Field("input.id", OPENAI, "msg_1", otherwise=ACCEPTED),
    Field("input.status", OPENAI, "completed", otherwise=ACCEPTED),
    Field("input.summary", OPENAI, [{"type": "summary_text", "text": "Hm."}], otherwise=ACCEPTED),
    Field("input.encrypted_content", OPENAI, "AAAA", otherwise=ACCEPTED),
    Field("tools.strict", OPENAI, True, otherwise=ACCEPTED),
    Field("tools.cache_control", ANTHROPIC, {"type": "ephemeral"}, otherwise=ACCEPTED),
    Field("tools.function.cache_control", ANTHROPIC, {"type": "ephemeral"}, otherwise=ACCEPTED),
    Field("response_format.json_schema.description", OPENAI, "A cat.", otherwise=ACCEPTED),
    Field("input_extra.time", LLAMA, [1, 2], otherwise=ACCEPTED),
)
"""What stands inside of messages, items, tools and forms, beside what every route reads of them. Qwen's template shows
no names and no earlier reasoning; SDKs send back what they have added to an answer."""

GROUPS: dict[str, tuple[Field, ...]] = {
    "What the model reads": PROMPTS,
    "How tokens are chosen": CHOOSING,
    "What forces an answer's form": FORM,
    "How long an answer is": ENDING,
    "What an answer shows": ANSWERING,
    "How a request is served": SERVING,
    "What stands in messages, tools and forms": INSIDE,
}
FIELDS: dict[str, Field] = {field.name: field for group in GROUPS.values() for field in group}
