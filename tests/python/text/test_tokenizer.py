"""tokenizer.json as the `tokenizers` package reads it, without what its last user left behind."""

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors

from moestro.errors import CheckpointError
from moestro.text.tokenizer import load_tokenizer, missing_tokenizer


@pytest.fixture
def words(tmp_path):
    vocab = {"<s>": 0, "hello": 1, "world": 2, "[UNK]": 3}
    raw = RawTokenizer(models.WordLevel(vocab, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(["<s>"])
    raw.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    raw.enable_truncation(2)
    raw.enable_padding(length=8)
    raw.save(str(tmp_path / "tokenizer.json"))
    return load_tokenizer(tmp_path)


def test_nothing_is_cut_or_padded(words):
    assert words.encode("hello world hello") == [0, 1, 2, 1]
    assert words.encode("hello world", add_special_tokens=False) == [1, 2]


def test_special_tokens_are_named_only_as_pieces(words):
    assert words.decode([0, 1, 2]) == "hello world"
    assert (words.piece(0), words.token_id("<s>"), words.token_id("nobody")) == ("<s>", 0, None)
    assert words.vocab_size == 4


def test_no_file_is_no_tokenizer(tmp_path):
    assert load_tokenizer(tmp_path) is None
    assert "lists of token ids" in missing_tokenizer(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not a tokenizer"):
        load_tokenizer(tmp_path)
