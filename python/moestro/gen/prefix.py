"""The KV of an earlier turn, kept for the next one."""

from __future__ import annotations

from collections.abc import Sequence

from moestro.kv.blocks import BlockPool, KvSequence
from moestro.models.rope import depends_on_length, unscaled_length
from moestro.models.spec import RopeSpec


class KeptPrefix:
    """At most one sequence and its tokens. Owns the sequence between turns; not thread-safe.

    Keys are stored rotated, so they may be used again only where the rotation would be the same. Length-dependent
    scalings make it depend on the prompt's length beyond the model's own limit; such keys are computed anew.
    """

    def __init__(self, rope: RopeSpec) -> None:
        self._rope = rope
        self._tokens: list[int] = []
        self._sequence: KvSequence | None = None
        self._prompt_length = 0  # of the request that kept it

    @property
    def blocks(self) -> int:
        return 0 if self._sequence is None else len(self._sequence.block_table)

    def take(self, prompt_ids: Sequence[int], pool: BlockPool) -> KvSequence:
        """A sequence that holds the longest usable beginning of the prompt; the caller owns it.

        The prompt's last token is never part of it: its logits are wanted. What does not match is forgotten.
        """
        sequence, self._sequence = self._sequence, None
        if sequence is None:
            return KvSequence(pool)
        reuse = min(self._common(prompt_ids), len(prompt_ids) - 1) if self._exact(len(prompt_ids)) else 0
        sequence.truncate(reuse)
        return sequence

    def keep(self, sequence: KvSequence, tokens: Sequence[int], prompt_length: int) -> None:
        """Takes the sequence over; tokens are those of its positions (and maybe more)."""
        self.drop()
        self._sequence = sequence
        self._tokens = list(tokens[: sequence.length])
        self._prompt_length = prompt_length

    def drop(self) -> None:
        """Gives the kept blocks back."""
        if self._sequence is not None:
            self._sequence.close()
        self._sequence, self._tokens = None, []

    def _common(self, prompt_ids: Sequence[int]) -> int:
        pairs = enumerate(zip(self._tokens, prompt_ids, strict=False))
        return next((place for place, (kept, new) in pairs if kept != new), min(len(self._tokens), len(prompt_ids)))

    def _exact(self, prompt_length: int) -> bool:
        # Below the limit one turn's keys are as good as another's: reused ones were below it themselves.
        limit = unscaled_length(self._rope)
        return not depends_on_length(self._rope) or max(self._prompt_length, prompt_length) <= limit
