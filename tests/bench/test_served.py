"""The benchmark of a container's own engine runs as a subcommand."""

import os
import re
import subprocess
import sys

from build_engine.artifact import Artifact


def test_bench_measures_the_engine_that_would_be_served(artifact: Artifact) -> None:
    command = [sys.executable, "-m", "nimble_coder.cli", "bench", "--rounds", "1", "--max-tokens", "16"]
    done = subprocess.run(
        command,
        env={**os.environ, "NIMBLE_BAKED_ARTIFACT": str(artifact.directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "demo, 5 prompts x 16 tokens x 1 rounds" in done.stdout
    assert re.search(r"plain \d+ tokens/s, lookahead \d+ tokens/s: \d+\.\d\dx", done.stdout)
