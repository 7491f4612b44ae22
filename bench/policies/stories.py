"""The demo model's routing over texts of its own: some to learn from, others to be judged on."""

from __future__ import annotations

from dataclasses import dataclass

from moestro import LLM, SamplingParams
from moestro.trace.routing import RoutingTrace

MODEL = "moestro:demo"
TOKENS = 480  # of an answer; contexts end at 512
TEMPERATURE = 1.0  # likelier tokens alone soon repeat themselves, and with them their experts

# Beginnings of what the model has read: modules, classes, tests, reference texts.
LEARNT = (
    "import os\n",
    "class Queue:\n",
    "The tuple type",
    "def parse_args(args):\n",
    "A regular expression",
    "for line in file:\n",
    '"""Unit tests for',
    "Return the",
    "# Copyright",
    "if __name__ == ",
    "The with statement",
    "def test_",
)
JUDGED = ("def main():\n", "class Error(Exception):\n", "The sequence", "import socket\n", "    def __init__(self")


@dataclass(frozen=True)
class Stories:
    learnt: RoutingTrace
    judged: RoutingTrace
    first_step: int  # of `judged`: where its first story ends, which only fills the caches


def record_stories() -> Stories:
    """Token by token, prompts too, as if each had been decoded; drawn by fixed seeds: the same on every machine."""
    tokens = TOKENS * (len(LEARNT) + len(JUDGED)) * 2
    with LLM(MODEL, host_memory="512MiB", record_tokens=tokens, record_ahead=3, prefill_chunk=1, say=None) as llm:
        traces, warm = [], 0
        for seed, prompts in ((0, LEARNT), (1000, JUDGED)):
            for number, prompt in enumerate(prompts):
                params = SamplingParams(max_tokens=TOKENS, temperature=TEMPERATURE, seed=seed + number, ignore_eos=True)
                [output] = llm.generate([prompt], params)
                if number == 0:
                    warm = len(output.prompt_token_ids) + len(output.token_ids) - 1
            traces.append(llm.routing())
    return Stories(*traces, first_step=warm)
