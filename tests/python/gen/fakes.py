"""A model without weights: logits are a function of the sequence's tokens, read back from the KV blocks.

So a wrong block table, fork, truncation or position changes what is said, as it would with a real model.
"""

import hashlib

import numpy as np

from moestro.errors import BudgetError
from moestro.kv.blocks import BLOCK
from moestro.models.spec import RopeSpec
from moestro.models.step import checked_segments


class FakePool:
    """Blocks of tokens with reference counts."""

    block_bytes = 1024

    def __init__(self, capacity=1000):
        self.capacity = capacity
        self.cells = {}
        self.counts = {}

    @property
    def blocks_in_use(self):
        return len(self.counts)

    @property
    def blocks_available(self):
        return self.capacity - len(self.counts)

    def allocate(self):
        if not self.blocks_available:
            raise BudgetError("pool is full")
        block = next(number for number in range(self.capacity) if number not in self.counts)
        self.counts[block] = 1
        self.cells[block] = [None] * BLOCK
        return block

    def share(self, block):
        self.counts[block] += 1

    def release(self, block):
        self.counts[block] -= 1
        if self.counts[block] == 0:
            del self.counts[block], self.cells[block]

    def references(self, block):
        return self.counts[block]

    def copy(self, source, destination):
        self.cells[destination] = list(self.cells[source])


class FakeLedger:
    budget = 1 << 20
    peak = 1 << 19

    def entries(self):
        return [{"name": "kv", "bytes": 0, "peak": 4096}]


class FakeRuntime:
    """Counters that grow with every step."""

    ledger = FakeLedger()
    virtual_time = False
    names = (
        *("hits", "misses", "joined", "evictions", "expert_bytes_read", "trunk_bytes_read", "reads"),
        *("compute_ns", "stall_ns", "arrival_ns", "read_busy_ns", "steps", "rows"),
        *("stream_bytes_read", "stream_stall_ns", "stream_arrival_ns", "stream_read_busy_ns"),
        *("compute_queued_ns", "read_queued_ns", "stream_queued_ns", "link_busy_ns", "device_ns"),
    )

    def __init__(self):
        self.steps = 0

    def counters(self):
        return {name: self.steps * (place + 1) for place, name in enumerate(self.names)}

    def residency(self):
        return {"device_slots": 0}

    def schedule(self):
        return ""

    def prefetch_counters(self):
        names = ("needed", "hinted", "foreseen", "used_bytes", "wasted_bytes", "off")
        return [{name: self.steps * (place + 2) for place, name in enumerate(names)}]


class FakeDecoder:
    """Records the batches it ran. `fail_at`: the step (from 1) that raises `failure` instead."""

    def __init__(self, pool, runtime, *, vocab=50, max_rows=16, logit_rows=1000):
        self.pool, self.runtime = pool, runtime
        self.vocab, self.max_rows, self.max_logit_rows = vocab, max_rows, logit_rows
        self.batches = []
        self.fail_at, self.failure = None, None

    def forward(self, batch):
        segments = checked_segments(batch, self.vocab, self.max_rows, self.max_logit_rows)
        for segment in segments:
            segment.sequence.append(segment.rows)
        self.runtime.steps += 1
        if self.runtime.steps == self.fail_at:
            for segment in segments:
                segment.sequence.commit(0)
            raise self.failure
        for segment in segments:
            self._write(segment, batch)
        logits = [self._row(batch, segments, row) for row in batch.logit_rows]
        for segment in segments:
            segment.sequence.commit(segment.rows)
        self.batches.append([(segment.rows, segment.sequence.length) for segment in segments])
        return np.array(logits, np.float32).reshape(len(logits), self.vocab)

    def _write(self, segment, batch):
        table = segment.sequence.block_table
        for row in range(segment.row_begin, segment.row_end):
            position = int(batch.positions[row])
            block = int(table[position // BLOCK])
            assert self.pool.references(block) == 1, "a shared block was written"
            self.pool.cells[block][position % BLOCK] = int(batch.token_ids[row])

    def _row(self, batch, segments, row):
        segment = next(one for one in segments if one.row_begin <= row < one.row_end)
        table = segment.sequence.block_table
        positions = range(int(batch.positions[row]) + 1)
        return self.logits_after([self.pool.cells[int(table[p // BLOCK])][p % BLOCK] for p in positions])

    def logits_after(self, tokens):
        digest = hashlib.sha256(repr([int(token) for token in tokens]).encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        return rng.normal(0, 3, self.vocab).astype(np.float32)


class Letters:
    """A tokenizer whose token i is a letter; what a test reads is what the model said."""

    def encode(self, text):
        return [ord(letter) - ord("A") for letter in text]

    def decode(self, token_ids):
        return "".join(chr(ord("A") + token) for token in token_ids)

    def piece(self, token):
        return self.decode([token])


ROPE = RopeSpec(theta=10000.0)
