"""The catalogue: sizes that agree with what is published."""

import pytest

from build_engine.catalog import MODELS, SHAPES, CatalogError, find_model


@pytest.mark.parametrize(
    ("size", "parameters", "kv_bytes"),
    [
        ("0.5b", 494_032_768, 12_288),
        ("1.5b", 1_543_714_304, 28_672),
        ("3b", 3_085_938_688, 36_864),
        ("7b", 7_615_616_512, 57_344),
        ("14b", 14_770_033_664, 196_608),
        ("32b", 32_763_876_352, 262_144),
    ],
)
def test_parameters_and_kv_cache_of_each_size_are_those_published(size: str, parameters: int, kv_bytes: int) -> None:
    shape = SHAPES[size]
    count = 0
    for _, dimensions in shape.tensors():
        product = 1
        for dimension in dimensions:
            product *= dimension
        count += product
    assert count == parameters
    assert 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * 2 == kv_bytes


def test_every_size_is_there_as_base_and_instruct_model() -> None:
    assert len(MODELS) == 12
    assert {model.size for model in MODELS.values() if model.is_instruct} == set(SHAPES)
    assert {model.size for model in MODELS.values() if not model.is_instruct} == set(SHAPES)


def test_a_model_is_found_by_its_hub_id_and_by_its_name() -> None:
    assert find_model("Qwen/Qwen2.5-Coder-7B-Instruct") is find_model("qwen2.5-coder-7b-instruct")


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CatalogError, match=r"no model 'qwen3'.*qwen2\.5-coder-7b-instruct"):
        find_model("qwen3")
