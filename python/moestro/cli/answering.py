"""An answer on its way to the terminal, or into one JSON object."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from json import dumps
from typing import TYPE_CHECKING

from moestro.cli.closing_line import closing_line
from moestro.cli.screen import Screen
from moestro.config import SamplingParams

if TYPE_CHECKING:
    from moestro.gen.outputs import StreamChunk
    from moestro.gen.prompts import Prompt
    from moestro.llm import LLM


def answer_as_text(llm: LLM, prompt: Prompt, params: SamplingParams) -> None:
    """Streams one answer; several come one after the other, when all are done."""
    if params.n == 1:
        with Screen() as screen, closing_stats(llm):
            write_chunks(llm, llm.stream(prompt, params, on_prefill=screen.prompt), screen, [])
        return
    with Screen() as screen, closing_stats(llm):
        [output] = llm.generate([prompt], params, on_prefill=screen.prompt)
        for answer in output.outputs:
            print(f"--- answer {answer.index + 1} ({answer.finish_reason})")
            print(answer.text or " ".join(map(str, answer.token_ids)))


def answer_as_json(llm: LLM, prompt: Prompt, params: SamplingParams) -> None:
    [output] = llm.generate([prompt], params)
    stats = llm.stats()
    result = {**asdict(output), "stats": stats.as_dict() if stats else None, "report": llm.report().as_dict()}
    print(dumps(result, ensure_ascii=False))


def write_chunks(llm: LLM, chunks: Generator[StreamChunk, None, None], screen: Screen, said: list[str]) -> None:
    """Writes text to stdout as it comes (token ids where there is no tokenizer), and adds it to `said`."""
    try:
        with closing(chunks):
            for chunk in chunks:
                screen.stop()  # the bar and the answer share a terminal
                text = chunk.text if llm.tokenizer is not None else f"{chunk.token_ids[0]} "
                said.append(text)
                print(text, end="", flush=True)
    finally:
        print()


@contextmanager
def closing_stats(llm: LLM) -> Iterator[None]:
    """Says what the run cost, cancelled or not."""
    try:
        yield
    finally:
        stats = llm.stats()
        if stats is not None:
            print(closing_line(stats), file=sys.stderr)
