"""Writing a trained model as Hugging Face has models: bf16 safetensors, config, tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from demo_training.corpus import LICENCE
from demo_training.evaluation import Report
from demo_training.pre_gated import MODEL_TYPE
from demo_training.tokenizer import END
from demo_training.variants import CONTEXT, Variant

_CARD = """# {name}

{summary}. {parameters:,} parameters, {dtype}.

Trained by `tools/train_demo_model.py` on the sources of Python's standard library and pydoc's topics ({licence}),
which it imitates: it knows nothing, and is good for showing and testing. Held-out perplexity {perplexity:.2f}; a
smoothed 3-gram model of the same tokens has {trigram:.2f}.
"""


def export(model: Any, tokenizer: Tokenizer, variant: Variant, report: Report, directory: Path) -> None:
    """Replaces `directory`. The model itself is left in bfloat16."""
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.config.eos_token_id = tokenizer.token_to_id(END)
    model.config.bos_token_id = None
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "repetition_penalty": 1.1}
    model.generation_config.update(eos_token_id=model.config.eos_token_id, **sampling)
    model.to(torch.bfloat16).save_pretrained(partial)
    (partial / "model.safetensors").chmod(0o644)  # written for its owner alone
    _finish_config(partial / "config.json", variant)
    tokenizer.save(str(partial / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": CONTEXT}
    _write_json(partial / "tokenizer_config.json", settings)
    _write_json(partial / "report.json", report.as_dict())
    card = _CARD.format(
        name=variant.name,
        summary=variant.summary[0].upper() + variant.summary[1:],
        parameters=report.parameters,
        dtype="bf16",
        licence=LICENCE,
        perplexity=report.perplexity,
        trigram=report.trigram_perplexity,
    )
    (partial / "README.md").write_text(card)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def _finish_config(path: Path, variant: Variant) -> None:
    config = json.loads(path.read_text())
    if variant.is_moe:
        config["num_experts"] = variant.config["num_experts"]  # transformers 5 writes num_local_experts, 4 reads this
    if variant.pre_gated:
        config |= {"model_type": MODEL_TYPE, "architectures": ["PreGatedQwen3Moe"]}
    _write_json(path, dict(sorted(config.items())))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
