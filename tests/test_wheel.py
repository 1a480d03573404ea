"""What an installation puts into `site-packages`: two packages, with the folders that they need inside."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_has_two_names_at_its_top(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    top = {name.split("/")[0] for name in names}
    assert top == {"build_engine", "nimble_coder", f"nimble_coder-{version}.dist-info"}
    assert "nimble_coder/backends/tensorrtllm/model.py" in names
    assert "build_engine/model_repository/tensorrt_llm/config.pbtxt.jinja" in names
