"""Perplexity of a model on a text in several weight formats: what rounding costs in the currency people compare.

    python bench/e2e/perplexity.py moestro:demo tests/data/demo/held_out.txt --json bench/results/perplexity-demo.json

Windows of fixed length, each predicted from its own start; every format sees the same tokens.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moestro import LLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path, help="UTF-8; text of end tokens counts as those tokens")
    parser.add_argument("--formats", nargs="+", default=["auto", "q8", "q4"])
    parser.add_argument("--window", type=int, default=256, help="tokens predicted per window")
    parser.add_argument("--host-memory", default="auto")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = {name: measure(asked, name) for name in asked.formats}
    base = results[asked.formats[0]]
    for name, value in results.items():
        print(f"{name:>5}  {value:8.3f}  {value / base - 1:+.2%}")
    if asked.json:
        record = {"model": asked.model, "text": asked.text.name, "window": asked.window, "perplexity": results}
        asked.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(asked: argparse.Namespace, name: str) -> float:
    with LLM(asked.model, format=name, host_memory=asked.host_memory, say=None) as llm:
        assert llm.tokenizer is not None, "the model has no tokenizer"
        ids = np.asarray(llm.tokenizer.encode(asked.text.read_text(encoding="utf-8")))
        starts = range(0, len(ids) - asked.window, asked.window)
        losses = [window_losses(llm, ids[start : start + asked.window + 1]) for start in starts]
    return float(np.exp(np.concatenate(losses).mean()))


def window_losses(llm: LLM, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Minus log probability of ids[1:], in nats."""
    logits = llm.logits(ids[:-1].tolist()).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen: NDArray[np.float64] = logits[np.arange(len(ids) - 1), ids[1:]]
    return np.log(np.exp(logits).sum(axis=1)) - chosen


if __name__ == "__main__":
    main()
