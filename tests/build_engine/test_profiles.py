"""The profiles: the published cases, names and ids that last, and limits that fit together."""

import re
from dataclasses import replace
from typing import Any

import pytest

from build_engine.catalog import MODELS, find_model
from build_engine.hardware import GPU_TYPES, MIB
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.memory import plan_memory
from build_engine.profiles import ANY, CUDA, EMBEDDED, PROFILES, Profile, ProfileError, find_profile

TENSORRT = [profile for profile in PROFILES.values() if profile.engine == "tensorrt"]


@pytest.mark.parametrize("gpu", ["h100", "h200"])
@pytest.mark.parametrize(("size", "lookahead", "tp"), [("1.5b", 8, 1), ("7b", 8, 1), ("32b", 15, 2)])
def test_the_published_cases_are_profiles(gpu: str, size: str, lookahead: int, tp: int) -> None:
    w = lookahead
    profile = PROFILES[f"qwen2.5-coder-{size}-instruct-{gpu}-bf16-tp{tp}-w{w}n{w}g{w}"]
    assert profile.lookahead == LookaheadConfig(w, w, w)
    assert profile.lookahead.max_draft_tokens == {8: 111, 15: 419}[w]
    assert profile.tensor_parallel == tp


def test_every_model_has_a_profile_for_every_gpu_type_and_fp8_only_where_the_chip_has_it() -> None:
    for model in MODELS.values():
        for gpu in GPU_TYPES.values():
            found = {p.precision for p in TENSORRT if (p.model, p.gpu) == (model.repo, gpu.name)}
            assert found == ({"bf16", "fp8"} if gpu.sm >= 89 else {"bf16"})


@pytest.mark.parametrize("profile", TENSORRT, ids=lambda profile: profile.name)
def test_every_profile_fits_its_gpu_with_four_sequences_of_full_length(profile: Profile) -> None:
    plan = plan_memory(profile, find_model(profile.model).shape)
    assert plan.sequences(GPU_TYPES[profile.gpu].memory_mib * MIB) >= 4


@pytest.mark.parametrize("profile", TENSORRT, ids=lambda profile: profile.name)
def test_every_profile_stays_within_the_models_positions_and_heads(profile: Profile) -> None:
    shape = find_model(profile.model).shape
    assert profile.max_seq_len + profile.lookahead.max_draft_tokens <= shape.max_position_embeddings
    assert shape.num_attention_heads % profile.tensor_parallel == 0


def test_base_and_instruct_profiles_differ_in_the_model_alone() -> None:
    for profile in TENSORRT:
        if "-instruct-" in profile.name:
            base = PROFILES[profile.name.replace("-instruct-", "-")]
            assert replace(base, name=profile.name, model=profile.model) == profile


def test_ids_are_64_hexadecimal_digits_and_unlike() -> None:
    ids = [profile.id for profile in PROFILES.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[0-9a-f]{64}", each) for each in ids)


def test_an_id_does_not_change_from_release_to_release() -> None:
    """Scripts and charts keep ids: a change here is a breaking change."""
    profile = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]
    assert profile.id == "20214e0e88f64864b8a85a03930c1898b3187bee6a1cc5d361c1c9b08110607e"


def test_an_fp8_profile_keeps_its_kv_cache_in_16_bits_unless_asked_and_the_id_says_which() -> None:
    """Engines of fp8 profiles once had the other cache: an artefact of theirs must not be taken for one of today's."""
    profile = PROFILES["qwen2.5-coder-7b-instruct-h100-fp8-tp1-w8n8g8"]
    assert not profile.fp8_kv_cache
    old = "bc31e11593ff4ef7ee159a401aa120e06584af199f8aa030a2b07db3ed546a0f"
    ids = {profile.id, replace(profile, fp8_kv_cache=True, kv_cache_reuse=False).id, old}
    assert len(ids) == 3


def test_an_int8_kv_cache_changes_the_id_and_its_absence_does_not() -> None:
    profile = PROFILES["qwen2.5-coder-0.5b-instruct-torch-bf16-w1n4g1"]
    assert profile.id == "0572a23fd9b73e92035367747d58779a86b274a13bb13bbba9186cabc1cea5a3"
    assert profile.with_limits(int8_kv_cache=True).id != profile.id


def test_serving_parameters_do_not_change_the_id() -> None:
    profile = PROFILES["demo"]
    assert replace(profile, name="x", kv_cache_fraction=0.5, max_queue_factor=1).id == profile.id
    assert replace(profile, max_batch_size=2).id != profile.id


def test_a_profile_is_found_by_name_by_id_and_by_the_ids_beginning() -> None:
    profile = TENSORRT[0]
    assert find_profile(profile.name) is find_profile(profile.id) is find_profile(profile.id[:12].upper()) is profile


def test_an_unknown_profile_is_refused_with_names_that_are_near() -> None:
    with pytest.raises(ProfileError, match=r"did you mean qwen2\.5-coder-32b"):
        find_profile("32b")
    with pytest.raises(ProfileError, match="list-model-profiles"):
        find_profile("gpt-2")


@pytest.mark.parametrize("model", ["qwen2.5-coder-0.5b", "Qwen/Qwen2.5-Coder-0.5B"])
def test_a_model_that_is_named_as_a_profile_is_told_apart(model: str) -> None:
    with pytest.raises(ProfileError, match=r"a model: name it by --model-name .* --model-name qwen2\.5-coder-0\.5b`"):
        find_profile(model)


def test_a_variant_has_another_name_and_id() -> None:
    profile = TENSORRT[0]
    variant = profile.with_limits(max_batch_size=3, lookahead=None)
    assert variant.max_batch_size == 3
    assert variant.name.startswith(f"{profile.name}-custom-")
    assert profile.with_limits(max_batch_size=profile.max_batch_size) is profile


def test_a_variants_name_says_what_it_is() -> None:
    """So that nobody reads w1n4g1 where another (W,N,G) drafts."""
    torch = PROFILES["qwen2.5-coder-0.5b-torch-bf16-w1n4g1"]
    assert torch.with_limits(lookahead=LookaheadConfig(2, 3, 2)).name == "qwen2.5-coder-0.5b-torch-bf16-w2n3g2"
    assert torch.with_limits(precision="int8") == PROFILES["qwen2.5-coder-0.5b-torch-int8-w1n4g1"]
    both = torch.with_limits(lookahead=LookaheadConfig(2, 3, 2), precision="int4", max_batch_size=torch.max_batch_size)
    assert both.name == "qwen2.5-coder-0.5b-torch-int4-w2n3g2"
    compiled = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]
    plain = compiled.with_limits(lookahead=PLAIN, max_batch_size=4)
    assert plain.name.startswith("qwen2.5-coder-7b-instruct-h100-bf16-tp1-w1n1g0-custom-")
    demo = PROFILES["demo"].with_limits(lookahead=LookaheadConfig(2, 3, 2))
    assert demo.name.startswith("demo-fp32-w2n3g2-custom-")


def test_portable_profiles_take_any_prompt_that_the_model_has_positions_for() -> None:
    portable = [p for p in PROFILES.values() if p.engine == "torch" and p.model != EMBEDDED]
    assert portable
    for profile in portable:
        assert profile.max_seq_len == find_model(profile.model).shape.max_position_embeddings
        assert profile.max_input_len == profile.max_seq_len - 1
    shorter = portable[0].with_limits(max_seq_len=4096)
    assert (shorter.max_seq_len, shorter.max_input_len) == (4096, 4095)
    assert portable[0].with_limits(max_seq_len=4096, max_input_len=1000).max_input_len == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp32"}, "tensorrt engine has no fp32"),
        ({"gpu": ANY}, "gpu 'any' is not one of"),
        ({"max_input_len": 9000}, "a prompt is computed in one forward pass"),
        ({"max_seq_len": 4096}, "leaves no room for output"),
        ({"max_batch_size": 0}, "max_batch_size is 0: it must be at least 1"),
        ({"max_seq_len": -5}, "max_seq_len is -5: it must be at least 1"),
        ({"max_num_tokens": 0}, "max_num_tokens is 0: it must be at least 1"),
        ({"engine": "torch", "fp8_kv_cache": True}, "an fp8 KV cache is for TensorRT engines"),
        ({"engine": "torch", "precision": "fp8"}, "fp8 of the torch engine is for GPUs"),
        ({"engine": "torch", "gpu": CUDA, "precision": "int4"}, "int4 of the torch engine is for CPUs"),
        ({"fp8_kv_cache": True, "kv_cache_reuse": False}, "beside bf16 weights"),
        ({"precision": "fp8", "fp8_kv_cache": True}, "turn kv_cache_reuse off"),
        ({"int8_kv_cache": True}, "int8 KV cache is for the torch engine on CPUs"),
        ({"engine": "torch", "gpu": CUDA, "int8_kv_cache": True}, "int8 KV cache is for the torch engine on CPUs"),
        ({"engine": "torch", "gpu": ANY, "precision": "fp16", "int8_kv_cache": True}, "in one of fp32, bf16"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        replace(PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"], **changes)


def test_max_num_tokens_covers_one_step_of_a_full_batch() -> None:
    """trtllm-build raises it to max_batch_size * (D + 1) by itself; the profile knows the result before."""
    profile = PROFILES["qwen2.5-coder-32b-instruct-h100-bf16-tp2-w15n15g15"]
    assert replace(profile, max_batch_size=64).engine_num_tokens == 64 * 420
    assert profile.engine_num_tokens == profile.max_num_tokens
