"""Hugging Face transformers with Accelerate's offload as a peer: a bf16 checkpoint within each share of device memory,
as JSON lines. Whole layers are placed; those of the processor's memory are sent to the device whenever they are needed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import torch
import transformers

from peer_runner import random_prompt


@torch.inference_mode()
def measure(model: Any, vocab: int, prompt: int, generate: int) -> dict[str, float]:
    begun = time.perf_counter()
    ids = torch.tensor([random_prompt(prompt, vocab, 2)], device="cuda")
    out = model(ids, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1:].argmax(-1)
    torch.cuda.synchronize()
    first = time.perf_counter()
    draw = torch.Generator().manual_seed(2)
    for _ in range(generate - 1):  # tokens at random: greedy ones of a random model repeat themselves
        token = torch.randint(vocab, (1, 1), generator=draw).to(token.device)
        out = model(token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
    torch.cuda.synchronize()
    ended = time.perf_counter()
    return {
        "prefill_tokens_per_s": prompt / (first - begun),
        "decode_tokens_per_s": (generate - 1) / (ended - first),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", help='JSON: {"model", "device_memory": {share: bytes}, "prompt", "generate"}')
    given = json.loads(parser.parse_args().settings)
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device")
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    loader: Any = transformers.AutoModelForCausalLM
    for share, memory in given["device_memory"].items():
        places = {"device_map": "auto", "max_memory": {0: memory, "cpu": 1 << 40}}
        model = loader.from_pretrained(given["model"], dtype=torch.bfloat16, **places).eval()
        vocab = model.config.vocab_size
        measure(model, vocab, 64, 2)
        parts = [str(place) for place in getattr(model, "hf_device_map", {}).values()]
        result = measure(model, vocab, given["prompt"], given["generate"])
        print(
            json.dumps({"share": float(share), "parts_on_device": parts.count("0"), "parts": len(parts), **result}),
            flush=True,
        )
        del model
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
