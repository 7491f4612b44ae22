"""A byte-level BPE trained on the corpus: every text round-trips, whatever its script."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    """All documents as one stream of token ids, each closed by END."""
    end = tokenizer.token_to_id(END)
    assert end is not None
    streams = [[*encoding.ids, end] for encoding in tokenizer.encode_batch(list(texts))]
    return np.concatenate([np.asarray(ids, dtype=np.int64) for ids in streams])
