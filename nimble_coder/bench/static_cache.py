"""What `transformers` takes for a token with a static cache and `torch.compile`, to compare a plain step with.

    python3 -m nimble_coder.bench.static_cache [--shape 1.5b]

Random weights of a Qwen2.5-Coder shape in bf16, one sequence, greedy. The first use compiles for a minute or more.
"""

import argparse
import statistics
import time

import torch
import transformers

from build_engine.catalog import SHAPES
from build_engine.checkpoint import ModelShape
from nimble_coder.bench.arguments import add_device, positive_int

PROMPT = 512


def config_of(shape: ModelShape) -> transformers.Qwen2Config:
    return transformers.Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=shape.max_position_embeddings,
        tie_word_embeddings=shape.tie_word_embeddings,
        eos_token_id=None,
        pad_token_id=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1.5b")
    add_device(parser)
    parser.add_argument("--tokens", type=positive_int, default=128)
    parser.add_argument("--rounds", type=positive_int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    with torch.device(args.device):
        model = transformers.Qwen2ForCausalLM._from_config(config_of(SHAPES[args.shape]), dtype=torch.bfloat16).eval()
    prompt = torch.randint(0, SHAPES[args.shape].vocab_size, (1, PROMPT), device=args.device)
    mask = torch.ones_like(prompt)

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        model.generate(
            prompt, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
            cache_implementation="static",
        )  # fmt: skip
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for _ in range(3):
        print(f"warming up: {seconds(args.tokens):.1f} s", flush=True)
    one = statistics.median(seconds(2) for _ in range(args.rounds))
    many = statistics.median(seconds(args.tokens) for _ in range(args.rounds))
    each = (many - one) / (args.tokens - 2)
    print(f"{args.shape} on {args.device}: {each * 1e3:.2f} ms a token, {1 / each:.0f} tokens/s, {PROMPT} cached")


if __name__ == "__main__":
    main()
