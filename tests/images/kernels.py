"""Run inside `runtime-cuda`: everything short of a GPU that Triton's language does at a kernel's first use.

The driver's library is a stub that is made here, in the directory that is the first argument. So the libraries that
start kernels are compiled, linked and loaded as on a GPU; nothing is started.
"""

import re
import subprocess
import sys
from pathlib import Path

from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from nimble_coder.engine.cuda import kernels

place = Path(sys.argv[1])
sources = [Path(next(iter(nvidia.__path__)), name).read_text() for name in ("driver.c", "driver.py")]
names = set(re.findall(r"\b(cu[A-Z]\w+)", "".join(sources)))
stub = place / "stub.c"
stub.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(names)))
subprocess.run(["gcc", "-shared", "-fPIC", "-o", place / "libcuda.so.1", stub], check=True)

from triton.backends.nvidia.driver import CudaLauncher, CudaUtils  # noqa: E402 - which looks for the library

CudaUtils()
kinds = {"tops": "*fp32", "tiles": "i32", "BLOCK": "constexpr"}
signature = {name: kinds.get(name, "*i32") for name in kernels.choose.arg_names}
source = ASTSource(kernels.choose, signature, constexprs={(kernels.choose.arg_names.index("BLOCK"),): 2048})
for capability in (80, 90, 120):
    compiled = compile(source, target=GPUTarget("cuda", capability, 32))
    CudaLauncher(source, compiled.metadata)
    print(capability, len(compiled.asm["cubin"]))
