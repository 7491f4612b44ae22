"""Promise 2: a memory budget is a promise, measured from outside the process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models

from moestro import LLM, SamplingParams
from moestro.errors import BudgetError
from moestro.pack import pack_checkpoint
from moestro.text.model_text import LARGE_TOKENIZER

SLACK = 60_000_000  # the interpreter, its libraries and their heaps

CHILD = """
import json, sys
from moestro import LLM, SamplingParams
with LLM(sys.argv[1], host_memory=int(sys.argv[2]), threads=2, say=None) as llm:
    output = llm.generate([list(range(100))], SamplingParams(max_tokens=12, temperature=0, ignore_eos=True))[0]
    print(json.dumps({"stats": llm.stats().as_dict(), "tokens": output.token_ids, "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 340 MB of experts in 210 slots of 1.6 MB, and a small trunk."""
    from transformers import Qwen3MoeConfig

    config = Qwen3MoeConfig(
        vocab_size=512,
        hidden_size=512,
        intermediate_size=512,
        moe_intermediate_size=520,
        num_hidden_layers=7,
        num_experts=30,
        num_experts_per_tok=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        norm_topk_prob=True,
    )
    return tiny_models.write("qwen3_moe", tmp_path_factory.mktemp("large") / "model", config=config, shard="200MB")


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.safetensors"))


def anonymous_and_shared(pid: int) -> int:
    """Bytes of a process that no file backs; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def run_and_watch(directory: Path, budget: int) -> tuple[dict, int]:
    """What the child printed, and the most memory it was seen to hold."""
    command = [sys.executable, "-c", CHILD, str(directory), str(budget)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        peak = 0
        while child.poll() is None:
            peak = max(peak, anonymous_and_shared(child.pid))
            time.sleep(0.002)
        assert child.stdout is not None
        printed = child.stdout.read()
    assert child.returncode == 0
    return json.loads(printed), peak


@pytest.mark.parametrize("kind", ("in place", "q8"))
def test_a_quarter_of_the_model_is_all_it_takes(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    directory = checkpoint
    if kind != "in place":
        directory = pack_checkpoint(checkpoint, tmp_path / "packed", kind, threads=2)
    budget = size_of(directory) // 4
    seen, peak = run_and_watch(directory, budget)
    assert peak <= budget + SLACK, f"{peak:,} bytes held under a budget of {budget:,}"
    assert seen["stats"]["peak_bytes"] <= budget
    assert seen["stats"]["evictions"] > 0
    assert not seen["torch"], "a cpu run imported torch"
    assert len(seen["tokens"]) == 12
    with LLM(directory, host_memory="2GiB", threads=1, say=None) as llm:
        params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
        assert llm.generate([list(range(100))], params)[0].token_ids == seen["tokens"]


def test_a_budget_below_the_smallest_is_refused_with_the_arithmetic(checkpoint: Path) -> None:
    with LLM(checkpoint, host_memory="min", say=None) as llm:
        smallest = llm.report().budget
        assert llm.logits([1, 2, 3]).shape == (3, 512)
    with pytest.raises(BudgetError, match=r"(?s)trunk.*expert.*host_memory"):
        LLM(checkpoint, host_memory=smallest - 8192, say=None)


def test_a_prompt_whose_kv_cannot_fit_is_refused_before_prefill(checkpoint: Path) -> None:
    with LLM(checkpoint, host_memory="min", say=None) as llm:
        before = llm.stats()
        with pytest.raises(BudgetError, match="KV"):
            llm.generate([[1] * 20_000], SamplingParams(max_tokens=1))
        assert llm.stats() == before, "nothing ran"
        assert llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2))[0].finish_reason in ("stop", "length")


def test_a_large_tokenizer_is_part_of_the_budget(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    directory = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("qwen3_moe"), directory)
    # In a process of its own: where earlier tests left a large free heap, a tokenizer takes nothing new.
    code = """
import json, sys
from moestro import LLM
with LLM(sys.argv[1], host_memory="min", say=None) as llm:
    llm.logits([1, 2, 3])
    print(json.dumps([llm.report().budget, llm.stats().peak_bytes_by_entry.get("text", 0)]))
"""

    def budget_and_text() -> list[int]:
        command = [sys.executable, "-c", code, str(directory)]
        return list(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    without, nothing = budget_and_text()
    vocab = {f"token-{number}-of-a-large-vocabulary": number for number in range(150_000)}
    Tokenizer(models.WordLevel(vocab, "token-0-of-a-large-vocabulary")).save(str(directory / "tokenizer.json"))
    budget, text = budget_and_text()
    assert nothing == 0
    assert text > LARGE_TOKENIZER
    assert budget == without + text
