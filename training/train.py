"""Trains the embedded model from scratch and writes it as a Hugging Face checkpoint with its model card.

    python -m training.train --output build_engine/embedded_model
    python -m training.train --output /tmp/model --steps 2 --batch 2    # a look at all of it, in some minutes

Needs the `train` extra. Deterministic for one interpreter, one machine and one thread count (fixed seed).
"""

from __future__ import annotations  # the models' classes take seconds to load

import argparse
import copy
import json
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer

from training.card import Run, model_card
from training.corpus import SourceFile, digest, documents, read_standard_library
from training.tokenizer import tokenizer_config, train_tokenizer

SEED = 20250521
CONTEXT = 8192  # positions the engine may use; training sees TRAINED_CONTEXT
TRAINED_CONTEXT = 768
VOCAB = 4096
PEAK_LR = 4e-3
WARMUP = 60
COMPILED_FROM = 100
"""Steps from which on it pays to compile the loss: minutes once, 1.7 times the tokens per second on two CPU cores."""


def configuration(tokenizer: Tokenizer) -> transformers.Qwen2Config:
    """The embedded model's shape: Qwen2 in small, tied embeddings and grouped-query attention included."""
    return transformers.Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        dtype=torch.bfloat16,
    )


def packed(files: list[SourceFile], tokenizer: Tokenizer, rng: random.Random) -> torch.Tensor:
    """One epoch as rows of TRAINED_CONTEXT+1 token ids, int64 `[rows, TRAINED_CONTEXT + 1]`, in random order."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast(list(documents(files, rng))):
        ids.extend(encoding.ids)
    width = TRAINED_CONTEXT + 1
    rows = torch.tensor(ids[: len(ids) // width * width]).view(-1, width)
    order = list(range(len(rows)))
    rng.shuffle(order)
    return rows[order]


def batches(files: list[SourceFile], tokenizer: Tokenizer, rng: random.Random, size: int) -> Iterator[torch.Tensor]:
    """Endless batches, each epoch with new cuts and new infilling spans."""
    while True:
        yield from (batch for batch in packed(files, tokenizer, rng).split(size) if len(batch) == size)


def loss_of(model: transformers.Qwen2ForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats per token of rows `[batch, TRAINED_CONTEXT + 1]`."""
    with torch.autocast(rows.device.type, dtype=torch.bfloat16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: transformers.Qwen2ForCausalLM, rows: torch.Tensor) -> float:
    model.eval()
    losses = [loss_of(model, batch).item() for batch in rows.split(8)]
    model.train()
    return sum(losses) / len(losses)


def optimizers(model: transformers.Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings, norms and biases."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, a constant stretch, and a linear decay to zero over the last 60 %."""
    return PEAK_LR * min((step + 1) / WARMUP, 1.0, (steps - step) / (0.6 * steps))


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    rng = random.Random(SEED)
    started = time.time()
    files = read_standard_library()
    kept, held_out = [f for f in files if not f.held_out], [f for f in files if f.held_out]
    tokenizer = train_tokenizer((f.text for f in kept), VOCAB)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # transformers declares its `to` as a function that is never bound to the model.
    model = transformers.Qwen2ForCausalLM(configuration(tokenizer)).to(device=device, dtype=torch.float32).train()  # type: ignore[call-arg]
    examination = packed(held_out, tokenizer, random.Random(SEED))[:96].to(device)
    stream = batches(kept, tokenizer, rng, arguments.batch)
    steppers = optimizers(model)
    step_loss = torch.compile(loss_of) if arguments.steps >= COMPILED_FROM else loss_of
    print(f"{len(kept)} files, {len(held_out)} held out, {model.num_parameters():,} parameters, {device}", flush=True)
    losses: list[float] = []
    for step in range(arguments.steps):
        loss = step_loss(model, next(stream).to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steppers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, arguments.steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            tokens = (step + 1) * arguments.batch * TRAINED_CONTEXT
            recent = sum(losses[-50:]) / 50
            rate = tokens / (time.time() - started)
            print(f"step {step + 1}/{arguments.steps}  loss {recent:.3f}  {rate:.0f} tokens/s", flush=True)
        if (step + 1) % 400 == 0 or step + 1 == arguments.steps:
            run = Run(
                files=len(kept),
                held_out_files=len(held_out),
                characters=sum(len(f.text) for f in kept),
                corpus_sha256=digest(files),
                python=platform.python_version(),
                torch=torch.__version__,
                device=device,
                steps=step + 1,
                tokens=(step + 1) * arguments.batch * TRAINED_CONTEXT,
                minutes=(time.time() - started) / 60,
                training_loss=sum(losses[-50:]) / len(losses[-50:]),
                held_out_loss=held_out_loss(model, examination),
                parameters=model.num_parameters(),
                seed=SEED,
            )
            save(model, tokenizer, run, arguments.output)
            print(f"held-out loss {run.held_out_loss:.3f}, written to {arguments.output}", flush=True)


def save(model: transformers.Qwen2ForCausalLM, tokenizer: Tokenizer, run: Run, output: Path) -> None:
    """Writes the checkpoint in Hugging Face layout, weights in bfloat16, and the card."""
    output.mkdir(parents=True, exist_ok=True)
    stops = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    exported = copy.deepcopy(model).to(torch.bfloat16)  # type: ignore[arg-type] # as in train()
    exported.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=stops, pad_token_id=stops[1]
    )
    exported.save_pretrained(output)
    tokenizer.save(str(output / "tokenizer.json"))
    (output / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(tokenizer, CONTEXT), indent=2) + "\n")
    (output / "README.md").write_text(model_card(run))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build_engine/embedded_model"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=10, help="rows of 768 tokens a step")
    parser.add_argument("--threads", type=int, default=2)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
