"""All five models against NVIDIA's: names, types, shapes and parameters, field by field."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from build_engine.lookahead import LookaheadConfig
from build_engine.profiles import PROFILES, Profile
from build_engine.repository import Places, render_repository

CONTRACT = json.loads((Path(__file__).parent / "triton_contract_v0.19.0.json").read_text())
MODELS = CONTRACT["models"]
SUBSTITUTED = {"${encoder_input_features_data_type}": "TYPE_FP16", "${logits_datatype}": "TYPE_FP32"}
"""Template variables of NVIDIA's that are types."""
PROFILE = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]


def render(profile: Profile, directory: Path, plain: bool = False) -> Path:
    guide = Path("/t/guide.json")
    places = Places(Path("/e"), Path("/t"), Path("/p"), 1234, guide) if plain else Places(Path("/e"), Path("/t"))
    render_repository(profile, places, directory / "repository")
    return directory / "repository"


def parse(repository: Path, model: str) -> Any:
    """The configuration as Triton reads it."""
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def type_name(tensor: Any) -> str:
    return str(model_config_pb2.DataType.Name(tensor.data_type))


def shape_of(tensor: Any) -> list[int] | None:
    return list(tensor.reshape.shape) if tensor.HasField("reshape") else None


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(PROFILE, tmp_path_factory.mktemp("contract"))


@pytest.mark.parametrize("model", MODELS)
def test_inputs_equal_the_contract(repository: Path, model: str) -> None:
    found = [
        [i.name, type_name(i), list(i.dims), i.optional, i.allow_ragged_batch, shape_of(i)]
        for i in parse(repository, model).input
    ]
    expected = [[name, SUBSTITUTED.get(kind, kind), *rest] for name, kind, *rest in MODELS[model]["inputs"]]
    assert found == expected


@pytest.mark.parametrize("model", MODELS)
def test_outputs_equal_the_contract(repository: Path, model: str) -> None:
    found = [[o.name, type_name(o), list(o.dims), shape_of(o)] for o in parse(repository, model).output]
    expected = [[name, SUBSTITUTED.get(kind, kind), *rest] for name, kind, *rest in MODELS[model]["outputs"]]
    unique = [row for i, row in enumerate(expected) if row not in expected[:i]]  # NVIDIA's ensemble lists one twice
    assert found == unique


@pytest.mark.parametrize("model", MODELS)
def test_backend_and_name_equal_the_contract(repository: Path, model: str) -> None:
    config = parse(repository, model)
    backend = "tensorrtllm" if model == "tensorrt_llm" else MODELS[model]["backend"]  # there a template variable
    assert (config.name, config.backend, config.platform) == (model, backend or "", MODELS[model]["platform"] or "")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lookahead", [LookaheadConfig(8, 8, 8), LookaheadConfig(1, 1, 0)], ids=str)
def test_every_parameter_is_set_or_absent_on_purpose(tmp_path: Path, model: str, lookahead: LookaheadConfig) -> None:
    repository = render(replace(PROFILE, lookahead=lookahead), tmp_path)
    given = set(parse(repository, model).parameters)
    text = (repository / model / "config.pbtxt").read_text()
    absent = dict(re.findall(r"^# absent: (\S+) - (.+)$", text, re.MULTILINE))
    assert not given & set(absent)
    own = {"tokenizer_dir", "skip_special_tokens"} if model == "postprocessing" else set()
    assert given | set(absent) == set(MODELS[model]["parameters"]) | own
    assert all(absent.values())


def test_the_ensembles_steps_equal_the_contract(repository: Path) -> None:
    found = [
        {
            "model_name": step.model_name,
            "model_version": step.model_version,
            "input_map": dict(step.input_map),
            "output_map": dict(step.output_map),
        }
        for step in parse(repository, "ensemble").ensemble_scheduling.step
    ]
    assert found == MODELS["ensemble"]["steps"]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_every_profiles_repository_is_filled_and_carries_its_numbers(tmp_path: Path, profile: Profile) -> None:
    repository = render(profile, tmp_path)
    for model in MODELS:
        text = (repository / model / "config.pbtxt").read_text()
        assert "${" not in text
        assert "{{" not in text
        config = parse(repository, model)
        assert config.max_batch_size == profile.max_batch_size
        if model == "tensorrt_llm":
            engine = config
    values = {name: value.string_value for name, value in engine.parameters.items()}
    w, n, g = (int(values[f"lookahead_{part}"]) for part in ("window_size", "ngram_size", "verification_set_size"))
    assert LookaheadConfig(w, n, g) == profile.lookahead
    assert values["decoding_mode"] == "lookahead"
    assert values["kv_cache_free_gpu_mem_fraction"] == str(profile.kv_cache_fraction)
    assert values["enable_kv_cache_reuse"] == "true"
    assert values["cancellation_check_period_ms"] == str(profile.cancellation_check_period_ms)
    assert engine.dynamic_batching.default_queue_policy.max_queue_size == profile.max_queue_size
    assert engine.model_transaction_policy.decoupled


def test_serving_parameters_come_from_the_profile(tmp_path: Path) -> None:
    tuned = replace(PROFILE, kv_cache_fraction=0.5, kv_cache_reuse=False, max_queue_factor=2)
    engine = parse(render(tuned, tmp_path), "tensorrt_llm")
    assert engine.parameters["kv_cache_free_gpu_mem_fraction"].string_value == "0.5"
    assert engine.parameters["enable_kv_cache_reuse"].string_value == "false"
    assert engine.dynamic_batching.default_queue_policy.max_queue_size == 2 * PROFILE.max_batch_size


def test_the_pieces_of_a_stream_stay_in_order(repository: Path) -> None:
    """Two instances of `postprocessing` would overtake each other, which shows on a busy machine only."""
    (group,) = parse(repository, "postprocessing").instance_group
    assert group.count == 1


def test_a_companion_has_the_engines_contract_without_lookahead(tmp_path: Path) -> None:
    repository = render(PROFILE, tmp_path, plain=True)
    engine, plain = parse(repository, "tensorrt_llm"), parse(repository, "tensorrt_llm_plain")
    assert list(plain.input) == list(engine.input)
    assert list(plain.output) == list(engine.output)
    assert plain.name == "tensorrt_llm_plain"
    assert plain.parameters["gpt_model_path"].string_value == "/p"
    assert "decoding_mode" not in plain.parameters
    assert engine.parameters["max_tokens_in_paged_kv_cache"].string_value == "1234"
    assert plain.parameters["max_tokens_in_paged_kv_cache"].string_value == "1234"
    assert engine.parameters["guided_decoding_backend"].string_value == ""
    assert plain.parameters["guided_decoding_backend"].string_value == "xgrammar"
    assert plain.parameters["xgrammar_tokenizer_info_path"].string_value == "/t/guide.json"
