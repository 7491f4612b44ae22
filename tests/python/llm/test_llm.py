"""LLM over the real core: what people call, on a model of a few megabytes that does not fit its cache."""

import json
import shutil
import threading
from _thread import interrupt_main

import numpy as np
import pytest

from moestro import LLM, SamplingParams
from moestro.errors import BudgetError, CheckpointError, UsageError

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
TEXT = "The quick brown fox"


def load(directory, **settings):
    return LLM(directory, **{"host_memory": "64MiB", "expert_slots": 5, "threads": 2, "say": None, **settings})


@pytest.fixture
def llm(talker):
    with load(talker) as llm:
        yield llm
        llm._running.model.runtime.check_integrity()
        held = llm._running.engine._machine.kept.blocks
        assert llm._running.model.kv_pool.blocks_in_use == held, "a run left KV behind"


def test_greedy_text_is_what_transformers_says(talker):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(talker)
    theirs = AutoModelForCausalLM.from_pretrained(talker, dtype=torch.float32)
    inputs = tokenizer(TEXT, return_tensors="pt")
    wanted = theirs.generate(**inputs, do_sample=False, max_new_tokens=24, eos_token_id=-1, pad_token_id=0)
    new = wanted[0, inputs.input_ids.shape[1] :]
    with load(talker, kv_dtype="f32") as llm:
        [output] = llm.generate(TEXT, SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=3))
        stats = llm.stats()
    assert output.prompt == TEXT
    assert output.prompt_token_ids == inputs.input_ids[0].tolist()
    assert output.token_ids == new.tolist()
    assert output.text == tokenizer.decode(new)
    assert stats.evictions > 0
    logits = theirs(wanted).logits.detach()[0, inputs.input_ids.shape[1] - 1 : -1]
    expected = torch.log_softmax(logits.double(), -1)
    for row, token, entries in zip(expected, output.token_ids, output.logprobs, strict=True):
        assert entries[token].rank == 1
        for alternative, entry in entries.items():
            assert entry.logprob == pytest.approx(float(row[alternative]), abs=1e-5)
            assert entry.decoded_token == tokenizer.decode([alternative])


def test_a_batch_says_what_each_would_alone(llm):
    prompts = [TEXT, [5, 6, 7], "a" * 200, list(range(100, 180))]
    params = [SamplingParams(seed=seed, max_tokens=20, top_k=50, n=1 + seed % 2) for seed in range(4)]
    together = llm.generate(prompts, params)
    for prompt, one, output in zip(prompts, params, together, strict=True):
        assert llm.generate([prompt], one)[0].outputs == output.outputs


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_and_slots_do_not_change_an_answer(talker, llm, chunk):
    with load(talker, prefill_chunk=chunk, expert_slots=2, threads=1) as other:
        params = SamplingParams(seed=3, max_tokens=20)
        assert other.generate("x" * 150, params)[0].outputs == llm.generate("x" * 150, params)[0].outputs
        assert other.stats().evictions > 0


def test_a_stream_is_the_answer_in_pieces(llm):
    params = SamplingParams(seed=1, max_tokens=30, stop=["q"])
    [whole] = llm.generate(TEXT, params)
    chunks = list(llm.stream(TEXT, params))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert chunks[-1].finish_reason == whole.finish_reason
    assert "q" not in whole.text


def test_a_closed_stream_cancels_and_the_model_goes_on(llm):
    expected = llm.generate(TEXT, GREEDY)
    stream = llm.stream(TEXT, SamplingParams(max_tokens=500, ignore_eos=True))
    next(stream)
    with pytest.raises(UsageError, match="busy"):
        llm.generate(TEXT)
    with pytest.raises(UsageError, match="busy"):
        llm.logits([1])
    stream.close()
    assert llm.stats().finish_reasons == {"cancelled": 1}
    assert llm.generate(TEXT, GREEDY) == expected


@pytest.mark.parametrize("after", [0.05, 0.2])
def test_ctrl_c_ends_a_run_and_the_model_goes_on(llm, after):
    expected = llm.generate(TEXT, GREEDY)
    timer = threading.Timer(after, interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(100):
            llm.generate([TEXT] * 4, SamplingParams(max_tokens=900, ignore_eos=True))
    timer.join()
    assert llm.stats().finish_reasons["cancelled"] == 4
    assert llm.generate(TEXT, GREEDY) == expected


def test_chat_reads_only_what_is_new_and_says_the_same(talker, llm):
    messages = [{"role": "user", "content": "Hello there, " * 20}]
    for turn in range(3):
        answer = llm.chat(messages, GREEDY)
        reused = llm.stats().reused_tokens
        assert (reused > 50) == (turn > 0)
        with load(talker) as fresh:
            assert fresh.chat(messages, GREEDY).outputs == answer.outputs
        messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": f"and {turn}?"}]
    assert "".join(chunk.text for chunk in llm.stream_chat(messages[:-2], GREEDY)) == answer.text
    assert answer.prompt.startswith("<|im_start|>user\nHello")


def test_logits_do_not_depend_on_chunks(talker, llm):
    tokens = np.arange(3, 140)
    with load(talker, prefill_chunk=7) as other:
        np.testing.assert_array_equal(llm.logits(tokens), other.logits(tokens))
    assert llm.logits([1, 2]).shape == (2, llm._running.model.spec.vocab_size)
    assert llm.stats().prompt_tokens == 2


def test_the_models_own_defaults(talker, tmp_path):
    directory = shutil.copytree(talker, tmp_path / "model")
    with load(directory) as llm:
        first = llm.generate(TEXT, GREEDY)[0].token_ids
    given = {"temperature": 0.0001, "top_k": 1, "max_new_tokens": 9, "eos_token_id": [first[4], first[6]]}
    (directory / "generation_config.json").write_text(json.dumps(given))
    with load(directory) as llm:
        assert llm.get_default_sampling_params().max_tokens == 9
        [output] = llm.generate(TEXT)
    end = min(first.index(first[4]), first.index(first[6]))
    assert output.token_ids == first[: end + 1]
    assert output.finish_reason == "stop"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda llm: llm.generate("x" * 5000), UsageError, r"prompt: \d+ tokens, but max_model_len is 1024"),
        (lambda llm: llm.generate([[]]), UsageError, r"prompts\[0\]: there is no token"),
        (lambda llm: llm.generate([[1.5]]), UsageError, "expected a text or a list of token ids"),
        (lambda llm: llm.generate([[10**6]]), UsageError, "outside the vocabulary"),
        (lambda llm: llm.generate(""), UsageError, "at least one token"),
        (lambda llm: llm.generate(["a", "b"], [GREEDY]), UsageError, "1 for 2 prompts"),
        (lambda llm: llm.generate("a", {"top_k": 1}), UsageError, "expected SamplingParams"),
        (lambda llm: llm.logits("text"), UsageError, "got a text"),
        (lambda llm: llm.logits(list(range(1025))), UsageError, "1025 tokens"),
        (lambda llm: llm.chat("hi"), UsageError, "expected a list like"),
    ],
)
def test_wrong_arguments_are_named(llm, call, error, words):
    with pytest.raises(error, match=words):
        call(llm)


def test_no_prompts_are_no_answers(llm):
    assert llm.generate([]) == []


def test_without_a_tokenizer_token_ids_still_work(talker, tmp_path):
    directory = shutil.copytree(talker, tmp_path / "model")
    (directory / "tokenizer.json").unlink()
    with load(talker) as whole, load(directory) as llm:
        assert any("tokenizer.json" in reason for reason in llm.report().refused)
        [output] = llm.generate([5, 6, 7], GREEDY)
        assert (output.token_ids, output.text) == (whole.generate([5, 6, 7], GREEDY)[0].token_ids, "")
        for call in (lambda: llm.generate("text"), lambda: llm.chat([{"role": "user", "content": "x"}])):
            with pytest.raises(UsageError, match=r"has no tokenizer.json"):
                call()
        with pytest.raises(UsageError, match=r"has no tokenizer.json"):
            llm.generate([5], SamplingParams(stop="x"))
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not a tokenizer"):
        load(directory)


def test_a_prompt_whose_kv_cannot_fit_is_refused_with_the_numbers(talker):
    with load(talker, host_memory="min", expert_slots=None) as llm:
        before = llm.stats()
        with pytest.raises(BudgetError, match=r"needs \d+ KV blocks of .* are missing"):
            llm.generate("x" * 900, SamplingParams(n=60, max_tokens=100))
        assert llm.stats() is before
        assert len(llm.generate(TEXT, GREEDY)[0].token_ids) == 12


def test_quantised_runs_pack_once(talker, tmp_path, monkeypatch):
    monkeypatch.setenv("MOESTRO_CACHE", str(tmp_path))
    said, stages = [], set()
    for _ in range(2):
        with load(talker, format="q8", say=said.append, progress=lambda stage, done, total: stages.add(stage)) as llm:
            assert llm.report().expert_format == "q8"
            assert llm.directory.parent == tmp_path / "packed"
            assert llm.chat([{"role": "user", "content": "hi"}], GREEDY).text
    assert len([line for line in said if line.startswith("packing ")]) == 1
    assert len([line for line in said if line.startswith("packed copy: ")]) == 1
    assert stages == {"packing", "loading"}
    assert len(list((tmp_path / "packed").iterdir())) == 1


def test_what_is_said_is_in_the_report(talker):
    said = []
    with load(talker, say=said.append, max_model_len=100) as llm:
        report = llm.report()
        assert said == list(report.lines())
        assert str(report).splitlines() == said
        assert (report.max_model_len, report.threads, report.expert_slots) == (100, 2, 5)
        assert json.loads(json.dumps(report.as_dict()))["experts"] == 24
        assert repr(llm) == f"LLM('{talker}', qwen3_moe, bf16, 64.00 MiB, cpu)"
        llm.generate(TEXT, GREEDY)
        stats = json.loads(json.dumps(llm.stats().as_dict()))
    assert set(stats["peak_bytes_by_entry"]) >= {"trunk", "kv", "scratch", "staging"}
    assert stats["peak_bytes"] <= stats["budget_bytes"] == 64 << 20
    assert stats["misses"] > 0
    assert 0 < stats["hit_rate"] < 1


def test_silence_and_stderr(talker, capfd):
    load(talker).close()
    assert capfd.readouterr() == ("", "")
    LLM(talker, host_memory="64MiB").close()
    out, err = capfd.readouterr()
    assert out == ""
    assert "memory: 64.00 MiB, as asked" in err


def test_a_closed_model_says_so(talker):
    llm = load(talker)
    stream = llm.stream(TEXT, SamplingParams(max_tokens=100, ignore_eos=True))
    next(stream)
    llm.close()
    llm.close()
    assert list(stream) == []
    assert "closed" in repr(llm)
    for call in (lambda: llm.generate(TEXT), lambda: llm.stream(TEXT), lambda: llm.logits([1])):
        with pytest.raises(UsageError, match="closed"):
            call()
    assert llm.stats().finish_reasons == {"cancelled": 1}


@pytest.mark.parametrize("prompts", [5, None, [], [[]], (prompt for prompt in ["a"]), [[1], None]])
def test_what_is_no_prompt_is_refused(llm, prompts):
    if prompts == []:
        assert llm.generate(prompts) == []
        return
    with pytest.raises(UsageError, match="prompt"):
        llm.generate(prompts)


def test_parameters_of_another_kind_are_refused(llm):
    with pytest.raises(UsageError, match="sampling_params"):
        llm.stream(TEXT, {"max_tokens": 3})
    with pytest.raises(UsageError, match="model"):
        LLM(5)
