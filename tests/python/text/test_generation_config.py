"""The model's own sampling defaults and end tokens."""

import json

import pytest

from moestro.config import SamplingParams
from moestro.errors import CheckpointError
from moestro.text.generation_config import read_generation_defaults


def write(directory, generation=None, config=None):
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return read_generation_defaults(directory)


def test_defaults_are_taken_over_as_vllm_does(tmp_path):
    given = {
        "eos_token_id": [7, 9],
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "repetition_penalty": 1.05,
        "max_new_tokens": 77,
        "do_sample": True,
        "transformers_version": "4.51.0",
    }
    defaults = write(tmp_path, given, {"eos_token_id": 1})
    assert defaults.eos_ids == {7, 9}
    assert defaults.sampling == SamplingParams(
        temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05, max_tokens=77
    )


def test_end_tokens_fall_back_to_the_model(tmp_path):
    assert write(tmp_path, {"top_k": None}, {"eos_token_id": 1}).eos_ids == {1}
    assert write(tmp_path, {"eos_token_id": 0}).eos_ids == {0}


def test_no_files_are_plain_defaults(tmp_path):
    defaults = write(tmp_path)
    assert (defaults.eos_ids, defaults.sampling) == (frozenset(), SamplingParams())


@pytest.mark.parametrize("generation", [{"eos_token_id": "x"}, {"eos_token_id": [1, -1]}, {"top_p": 3}])
def test_nonsense_is_named(tmp_path, generation):
    with pytest.raises(CheckpointError, match=rf"generation_config.json: {next(iter(generation))}"):
        write(tmp_path, generation)


def test_a_model_that_does_not_sample_takes_the_likeliest(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"do_sample": false}')
    assert read_generation_defaults(tmp_path).sampling.greedy
