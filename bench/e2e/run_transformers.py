"""Hugging Face transformers on the CPU as a peer, bf16, with its defaults; the loop is ours, leaner than generate()."""

from __future__ import annotations

import time

import torch
import transformers

from peer_runner import Answer, Settings, serve


class Transformers:
    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._model = transformers.AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.bfloat16).eval()
        self.vocab = self._model.config.vocab_size
        self.about = f"transformers {transformers.__version__}, torch {torch.__version__}, bf16"

    @torch.inference_mode()
    def answer(self, prompt: list[int], count: int) -> Answer:
        begun = time.perf_counter()
        token, cache = self._next(prompt, None)
        first = time.perf_counter()
        tokens = [token]
        while len(tokens) < count:
            token, cache = self._next(tokens[-1:], cache)
            tokens.append(token)
        return Answer(first - begun, time.perf_counter() - first, tokens)

    def _next(self, ids: list[int], cache: transformers.Cache | None) -> tuple[int, transformers.Cache]:
        out = self._model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax()), out.past_key_values


if __name__ == "__main__":
    serve(Transformers)
