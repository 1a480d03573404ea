"""Compiles the portable engine's step while the package is built or installed, where there is a C++ compiler, and puts
the folders that the packages need into them."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc] # hatchling is there only in a build
    """Puts `step-*.so` beside `step.cpp`; without a compiler the package is built without."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":  # a checkout has them beside the packages (`build_engine/shipped.py`)
            build_data["force_include"]["model_repository"] = "build_engine/model_repository"
            build_data["force_include"]["backends"] = "nimble_coder/backends"
        sys.path.insert(0, self.root)
        from nimble_coder.engine.compiled import CompileError, compile_step  # noqa: PLC0415

        try:
            libraries = compile_step()
        except CompileError as error:
            self.app.display_warning(f"the portable engine's step is not compiled, and will be slower: {error}")
            return
        finally:
            sys.path.remove(self.root)
        build_data["artifacts"] += [str(path.relative_to(Path(self.root))) for path in libraries]
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
