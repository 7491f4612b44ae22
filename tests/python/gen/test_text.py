"""Detokenising without broken characters, and stop strings wherever the tokens cut them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from moestro.gen.detokenize import Detokenizer
from moestro.gen.stop_text import StopTexts
from moestro.text.tokenizer import Tokenizer


def byte_level():
    """Every byte is a token: the hardest case for characters of several bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = RawTokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Tokenizer(tokenizer)


def byte_fallback():
    """As Llama 2 and Mixtral: words with a leading mark, unknown characters as byte tokens."""
    vocab = {"<unk>": 0, "▁": 1, "▁the": 2, "re": 3, "s": 4, ",": 5}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    tokenizer = RawTokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(tokenizer)


TOKENIZERS = {"byte_level": byte_level(), "byte_fallback": byte_fallback()}

texts = st.text(st.sampled_from("abst the, éß中文字🙂👩‍👩‍👧\u00a0\n"), max_size=40)


def pieces(tokenizer, ids, before=()):
    stream = Detokenizer(tokenizer, before)
    return [*(stream.feed(token) for token in ids), stream.flush()]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts)
def test_pieces_join_to_the_text_and_hold_whole_characters(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    parts = pieces(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids)
    assert not any("\ufffd" in part for part in parts)


@given(st.lists(st.integers(0, 255), max_size=30))
def test_noise_of_bytes_decodes_as_a_whole_would(ids):
    tokenizer = TOKENIZERS["byte_level"]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_comes_with_its_last_byte():
    tokenizer = TOKENIZERS["byte_level"]
    assert pieces(tokenizer, tokenizer.encode("a🙂b")) == ["a", "", "", "", "🙂", "b", ""]


def test_an_unfinished_character_comes_at_the_end():
    tokenizer = TOKENIZERS["byte_level"]
    assert pieces(tokenizer, tokenizer.encode("a🙂")[:-1]) == ["a", "", "", "", "\ufffd"]


def test_a_word_after_the_prompt_keeps_its_space():
    tokenizer = TOKENIZERS["byte_fallback"]
    prompt, answer = [2], [2, 3]
    assert "".join(pieces(tokenizer, answer, before=prompt)) == " there"
    assert "".join(pieces(tokenizer, answer)) == "there"


def cut_by_hand(text, stops):
    """The definition: read on, character by character, until some stop string is complete."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


def cut_by_stream(parts, stops):
    filtered, out = StopTexts(stops), ""
    for part in parts:
        passed = filtered.feed(part)
        out += passed.text
        if passed.stop is not None:
            return out, passed.stop
    return out + filtered.flush(), None


short = st.text("ab", min_size=1, max_size=4)


@given(st.lists(st.text("abc", max_size=3), max_size=20), st.lists(short, max_size=4))
def test_stops_do_not_depend_on_where_the_text_is_cut(parts, stops):
    assert cut_by_stream(parts, stops) == cut_by_hand("".join(parts), stops)


@given(st.lists(st.text("abc", max_size=3), max_size=20), st.lists(short, min_size=1, max_size=4))
def test_only_possible_stops_are_held_back(parts, stops):
    filtered, seen, out = StopTexts(stops), "", ""
    for part in parts:
        seen += part
        passed = filtered.feed(part)
        out += passed.text
        if passed.stop is not None:
            return
        held = seen[len(out) :]
        assert seen == out + held
        assert not held or any(stop.startswith(held) for stop in stops)
