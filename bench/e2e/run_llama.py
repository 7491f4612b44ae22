"""llama.cpp as a peer, through the plain bindings of llama-cpp-python.

Options: {"repack": bool, "draw": bool}; draw: every next token is drawn from all of them, whatever the logits say.
"""

from __future__ import annotations

import os
import time
from typing import Any

import llama_cpp
import numpy as np

from peer_runner import Answer, Settings, disk_bytes, serve


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: Any) -> None:
    pass


class LlamaCpp:
    """Settings are llama.cpp's own defaults, but for the threads, no GPU, and the repacking asked for."""

    def __init__(self, settings: Settings) -> None:
        llama_cpp.llama_log_set(_silent, None)
        llama_cpp.llama_backend_init()
        model_settings = llama_cpp.llama_model_default_params()
        model_settings.n_gpu_layers = 0
        model_settings.use_extra_bufts = bool(settings.options["repack"])
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(settings.model), model_settings)
        if not self._model:
            raise RuntimeError(f"llama.cpp could not load {settings.model}")
        context_settings = llama_cpp.llama_context_default_params()
        context_settings.n_ctx = -(-settings.context // 256) * 256
        context_settings.n_batch = context_settings.n_ctx  # one call takes the prompt; it is computed in n_ubatch rows
        context_settings.n_threads = context_settings.n_threads_batch = settings.threads
        self._context = llama_cpp.llama_init_from_model(self._model, context_settings)
        if not self._context:
            raise RuntimeError(f"llama.cpp could not make a context for {settings.model}")
        self._draw = np.random.default_rng(settings.seed) if settings.options.get("draw") else None
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        system = llama_cpp.llama_print_system_info().decode().strip()
        self.about = f"llama-cpp-python {llama_cpp.__version__}: {settings.options}; {system}"

    def answer(self, prompt: list[int], count: int) -> Answer:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        begun = time.perf_counter()
        tokens = [self._next(prompt)]
        first, read = time.perf_counter(), disk_bytes()
        while len(tokens) < count:
            tokens.append(self._next(tokens[-1:]))
        return Answer(first - begun, time.perf_counter() - first, tokens, disk_bytes() - read)

    def _next(self, ids: list[int]) -> int:
        tokens = (llama_cpp.llama_token * len(ids))(*ids)  # the batch borrows it
        status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise RuntimeError(f"llama_decode failed with status {status}")
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        if self._draw is not None:
            return int(self._draw.integers(self.vocab))
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocab,))))


if __name__ == "__main__":
    serve(LlamaCpp)
