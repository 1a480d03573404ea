"""Every kernel compiles for the cards that people have, which needs no card: the first minute on one is not for typing
errors. A process of its own, since a process either compiles kernels or interprets them."""

import os
import subprocess
import sys
from pathlib import Path

COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from nimble_coder.engine.cuda import kernels

BF16, FP32, INT, LONG = "*bf16", "*fp32", "*i32", "*i64"
POINTERS = {
    "tokens": INT, "positions": INT, "places": INT, "slots": INT, "blocks": INT, "visible": LONG, "movers": INT,
    "moves": INT, "choices": INT, "cos": FP32, "sin": FP32, "partial": FP32, "stats": FP32, "tops": FP32, "wanted": INT,
    "scales": FP32, "row_scales": FP32, "normed_scales": FP32, "out_scales": FP32,
}
EIGHT = {"normed": "*fp8e4nv", "out": "*fp8e4nv"}
NUMBERS = {"eps": "fp32", "scale": "fp32"}
INTEGERS = {
    "width", "slot_stride", "layer_stride", "capacity", "rows_total", "splits", "lines", "rows", "vocab", "tiles",
    "outputs",
}
HEADS = {"HEADS": 14, "KV_HEADS": 2}
CONSTANTS = [
    ("embed_norm", {"EIGHT": False, "BLOCK": 1024}), ("embed_norm", {"EIGHT": True, "BLOCK": 1024}),
    ("add_norm", {"EIGHT": False, "NORMED": False, "BLOCK": 1024}),
    ("add_norm", {"EIGHT": True, "NORMED": False, "BLOCK": 1024}),
    ("add_norm", {"EIGHT": True, "NORMED": True, "BLOCK": 1024}),
    ("multiply_row", {"WIDTH": 896, "BIASED": True, "BLOCK_N": 2, "BLOCK_K": 1024}),
    ("silu_times", {"BLOCK": 1024}), ("silu_times_in_eight", {"BLOCK": 8192}), ("round_rows", {"BLOCK": 1024}),
    ("rotate_and_store", {**HEADS, "EIGHT": False, "HALF": 32, "BLOCK_H": 32}),
    ("rotate_and_store", {**HEADS, "EIGHT": True, "HALF": 32, "BLOCK_H": 32}),
    ("attend", {**HEADS, "DIM": 64, "BLOCK_M": 16, "SPLIT": True}),
    ("attend", {"HEADS": 28, "KV_HEADS": 4, "DIM": 128, "BLOCK_M": 64, "SPLIT": False}),
    ("combine", {"DIM": 64, "BLOCK_S": 32}), ("move_entries", {"DIM": 64}),
    ("choose_in_tiles", {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}), ("choose", {"BLOCK": 2048}),
]
for name, constants in CONSTANTS:
    kernel = getattr(kernels, name)
    rounds = constants.get("EIGHT") or name in ("silu_times_in_eight", "round_rows")
    rounds = rounds and constants.get("NORMED", True) and name != "rotate_and_store"

    def kind(argument):
        if argument in constants:
            return "constexpr"
        if rounds and argument in EIGHT:
            return EIGHT[argument]
        return NUMBERS.get(argument) or ("i32" if argument in INTEGERS else POINTERS.get(argument, BF16))

    signature = {argument: kind(argument) for argument in kernel.arg_names}
    values = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    for capability in map(int, sys.argv[1:]):
        if rounds and capability < 89:
            continue  # such cards get the weights in 16 bits (nimble_coder/engine/weights.py)
        done = compile(ASTSource(kernel, signature, constexprs=values), target=GPUTarget("cuda", capability, 32))
        assert done.asm["cubin"], name
        print(name, capability)
"""


def test_every_kernel_compiles_without_a_card(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, "80", "90", "100"],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 3 * 17 - 4
