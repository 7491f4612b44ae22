"""generate, chat, pack and demo, from the command line to the closing line."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from moestro import LLM, SamplingParams
from moestro.cli.main import app

SMALL = ("--host-memory", "64MiB", "--threads", "2")
CLOSING = re.compile(
    r"\d+ tokens · [\d.]+ tok/s · first token after [\d.]+ s · hit rate [\d.]+% · [\d.]+ \w+ read( at [\d.]+ GB/s)?"
    r" · bound by [\w ]+ · peak memory [\d.]+ MiB of 64.00 MiB"
)


def run(*words, **more):
    return CliRunner().invoke(app, [str(word) for word in words], **more)


@pytest.fixture(scope="session")
def said(talker):
    with LLM(talker, host_memory="64MiB", threads=2, say=None) as llm:
        return llm.generate("Once upon", SamplingParams(seed=7, max_tokens=20, temperature=0.8))[0]


def test_generate_streams_the_answer_and_closes_with_its_cost(talker, said):
    options = ("--seed", 7, "--max-tokens", 20, "--temperature", 0.8)
    result = run("generate", talker, "Once upon", *SMALL, *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == said.text + "\n"
    assert CLOSING.search(result.stderr)
    assert "memory: 64.00 MiB, as asked" in result.stderr
    assert run("generate", talker, *SMALL, *options, input="Once upon").stdout == result.stdout


def test_generate_as_json(talker, said):
    result = run(
        "generate", talker, "Once upon", *SMALL, "--seed", 7, "--max-tokens", 20, "--temperature", 0.8, "--json"
    )
    assert result.exit_code == 0
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found["outputs"][0]["text"] == said.text
    assert found["outputs"][0]["token_ids"] == said.token_ids
    assert found["prompt_token_ids"] == said.prompt_token_ids
    assert found["stats"]["generated_tokens"] == 20
    assert found["stats"]["misses"] > 0
    assert found["report"]["threads"] == 2


def test_several_answers(talker):
    result = run("generate", talker, "Once", *SMALL, "--seed", 1, "--max-tokens", 5, "--n", 3)
    assert re.findall(r"--- answer (\d) \(length\)", result.stdout) == ["1", "2", "3"]


def test_token_ids_and_stop(talker):
    words = ("generate", talker, "--token-ids", "5,6,7", *SMALL, "--temperature", 0, "--max-tokens", 8, "--ignore-eos")
    whole = run(*words).stdout.rstrip("\n")
    cut = run(*words, "--stop", whole[3:5], "--stop", "never said").stdout.rstrip("\n")
    assert cut == whole[: whole.index(whole[3:5])]
    assert run("generate", talker, "text", "--token-ids", "5").exit_code == 1
    assert "expected numbers" in run("generate", talker, "--token-ids", "5,x").stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host-memory", "1MiB"), "are missing"),
        (("--host-memory", "much"), "cannot read 'much'"),
        (("--format", "q3"), "expected one of auto, f32, bf16, q8, q4; got 'q3'"),
        (("--prefill-chunk", "some"), "prefill_chunk"),
        (("--top-p", "3"), "top_p"),
        (("--device", "gpu"), "device: expected 'cpu', 'cuda'"),
    ],
)
def test_wrong_options_are_one_message(talker, options, words):
    result = run("generate", talker, "hi", *options)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_chat_remembers_and_resets(talker):
    greedy = (*SMALL, "--temperature", 0, "--max-tokens", 8, "--ignore-eos")
    result = run(
        "chat", talker, *greedy, "--system", "Be brief.", input="Hello\nAgain\n/reset\nHello\n\n/exit\nnever\n"
    )
    assert result.exit_code == 0, result.stderr
    assert len(CLOSING.findall(result.stderr)) == 3
    with LLM(talker, host_memory="64MiB", threads=2, say=None) as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        first = llm.chat(messages, params).text
        messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Again"}]
        second = llm.chat(messages, params).text
    assert result.stdout == f"{first}\n{second}\n{first}\n"


def test_pack_then_generate(talker, tmp_path):
    packed = tmp_path / "packed"
    result = run("pack", talker, packed, "--format", "q4", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["destination"] == str(packed)
    assert found["bytes"] == sum(path.stat().st_size for path in packed.iterdir())
    assert run("generate", packed, "Once", *SMALL, "--max-tokens", 4).exit_code == 0
    summary = json.loads(run("inspect", packed, "--json").stdout)
    assert {entry["format"] for entry in summary["classes"] if entry["kind"] == "experts"} == {"q4"}
    again = run("pack", talker, packed, "--format", "q4")
    assert again.exit_code == 1
    assert "already holds a packed model" in again.stderr


def test_a_quantised_run_shows_up_in_the_cache(talker):
    assert run("generate", talker, "Once", *SMALL, "--max-tokens", 4, "--format", "q8").exit_code == 0
    [entry] = json.loads(run("cache", "ls", "--json").stdout)["entries"]
    assert entry["finished"]
    assert "-q8-" in entry["name"]


def test_demo_runs_in_a_quarter():
    result = run("demo", "--max-tokens", 30)
    assert result.exit_code == 0, result.stderr
    assert "room for 64 (25%)" in result.stderr
    assert re.search(r"30 tokens · .* hit rate [1-9].* read", result.stderr)
    assert result.stdout.startswith("def parse_args(args):")
    again = run("demo", "--max-tokens", 30, "--json")
    assert again.stderr == ""
    found = json.loads(again.stdout)
    assert found["stats"]["evictions"] > 0
    assert result.stdout == f"{found['prompt']}{found['outputs'][0]['text']}\n"


def test_a_built_in_model_is_named_anywhere():
    assert json.loads(run("inspect", "moestro:demo", "--json").stdout)["model_type"] == "qwen3_moe"
    result = run("generate", "moestro:draft", "import ", "--max-tokens", 4, "--host-memory", "min")
    assert result.exit_code == 0, result.stderr
    missing = run("generate", "moestro:big", "import ")
    assert missing.exit_code == 1
    assert "moestro:demo, moestro:draft" in missing.stderr


def test_doctor():
    result = run("doctor", "--no-measure")
    assert result.exit_code == 0
    for word in ("cpu", "automatic budget", "locked memory", "avx2", "cuda", "refused", "versions"):
        assert word in result.stdout
    assert json.loads(run("doctor", "--no-measure", "--json").stdout)["cores"] >= 1


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_ctrl_c_is_code_130_without_a_traceback(talker, command):
    words = [sys.executable, "-m", "moestro", command, str(talker), *(("hi",) if command == "generate" else ())]
    options = [*map(str, SMALL), "--ignore-eos", "--max-tokens", "1000" if command == "generate" else "8"]
    process = subprocess.Popen(
        [*words, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if command == "generate":
        process.stdout.read(10)  # it has begun to answer
    else:
        while "/exit" not in process.stderr.readline():
            pass
        time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "cancelled" in err
    if command == "generate":
        assert "tokens · " in err
