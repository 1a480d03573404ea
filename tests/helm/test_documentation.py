"""What docs/kubernetes.md has people give to Helm."""

import re
from typing import Any

import pytest
import yaml

from build_engine.profiles import find_profile
from tests.helm.chart import CPU, ROOT, merged, render

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
BLOCKS: list[Any] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
VALUES = [block for block in BLOCKS if isinstance(block, dict)]


@pytest.mark.parametrize("values", VALUES)
def test_the_chart_takes_the_values_of_the_page(values: dict[str, Any]) -> None:
    assert render(merged(CPU, values)).documents


def test_the_profiles_of_the_page_are_there() -> None:
    named = set(re.findall(r"model_profile[=:] ?(qwen[\w.-]+)", PAGE))
    assert len(named) > 2
    for name in named:
        assert find_profile(name).name == name


def test_the_page_has_values() -> None:
    assert {name for values in VALUES for name in values} >= {"autoscaling", "extraEnv", "networkPolicy"}


def test_the_tag_of_the_page_is_the_charts() -> None:
    assert f"docker push registry.example/{render().container['image']}" in PAGE
