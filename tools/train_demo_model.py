"""Trains the models that come with the package, on text that every Python installation has.

    python tools/train_demo_model.py            # all: about an hour on two cores, the demo's alone 45 minutes
    python tools/train_demo_model.py demo       # one of them: demo, draft, pre_gated

Seeded, and resumable: stop it and start it again. Writes the models into the tree where the package and the tests look
for them, with held-out text, a routing trace, a report and a plot. Needs torch, transformers and matplotlib.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGED = ROOT / "python/moestro/demo/models"  # models that users can name
TEST_DATA = ROOT / "tests/data/demo"
PLACES = {"demo": PACKAGED / "demo", "draft": PACKAGED / "draft", "pre_gated": TEST_DATA / "pre_gated"}
PLOT = ROOT / "docs/images/demo-routing.png"
TRACE_TOKENS = 32768

# Without these, glibc gives every large activation back to the system and faults it in again: a third of the time.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"which: {', '.join(PLACES)}; all by default")
    parser.add_argument("--work", type=Path, default=ROOT / "build/demo_training", help="keeps unfinished state")
    parser.add_argument("--threads", type=int, default=2)
    parsed = parser.parse_args()
    unknown = set(parsed.models) - set(PLACES)
    if unknown:
        parser.error(f"unknown model {min(unknown)}: expected one of {', '.join(PLACES)}")
    return parsed


def main() -> None:
    asked = arguments()
    if not _ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | _ALLOCATOR)

    import numpy as np
    import torch

    from demo_training.corpus import LICENCE, read_corpus
    from demo_training.evaluation import evaluate, table
    from demo_training.export import export
    from demo_training.plot import plot_routing
    from demo_training.tokenizer import END, encode_documents, train_tokenizer
    from demo_training.training import train
    from demo_training.variants import VARIANTS, VOCAB_SIZE

    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus()
    tokenizer = train_tokenizer(corpus.train, VOCAB_SIZE)
    train_ids, held_out_ids = (encode_documents(tokenizer, texts) for texts in (corpus.train, corpus.held_out))
    print(f"{len(train_ids):,} tokens to learn from, {len(held_out_ids):,} held out ({LICENCE})", flush=True)

    TEST_DATA.mkdir(parents=True, exist_ok=True)
    (TEST_DATA / "held_out.txt").write_text(END.join([*corpus.held_out, ""]), encoding="utf-8", newline="")
    for name in asked.models or PLACES:
        variant = VARIANTS[name]
        model = train(variant, train_ids, asked.work)
        report, routing = evaluate(model, train_ids, held_out_ids, variant)
        print(table(report), flush=True)
        PLACES[name].parent.mkdir(parents=True, exist_ok=True)
        export(model, tokenizer, variant, report, PLACES[name])
        if name == "demo" and routing is not None:
            np.savez_compressed(
                TEST_DATA / "routing.npz",
                tokens=routing.tokens[:TRACE_TOKENS].astype(np.uint16),
                chosen=routing.chosen[:, :TRACE_TOKENS].astype(np.uint8),
                weights=routing.weights[:, :TRACE_TOKENS].astype(np.float16),
            )
            PLOT.parent.mkdir(parents=True, exist_ok=True)
            plot_routing(routing, variant.config["num_experts"], lambda token: tokenizer.decode([token]), PLOT)
        print(f"{name}: written to {PLACES[name].relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
