"""Counts of packing a table, and warnings about pairs that were left out, cut or not trained on as configured.

stats = PackStats(**run.manifest("seed/packed").extra)
for sentence in stats.warnings(): print(sentence)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackStats:
    """Counts of packing. Sequences, tokens and pairs are sums over epochs; those after `pairs` are of one epoch."""

    sequences: int
    tokens: int
    response_tokens: int
    """Tokens in the loss."""
    hard_tokens: int
    """Response tokens of the pool `hard`."""
    pairs: int
    cut: int
    """Pairs that lost their end (`train.over_length: truncate`)."""
    over_length: int
    """Pairs left out because they do not fit `train.sequence_length`."""
    template_refused: int
    """Pairs left out because the chat template refuses their roles, or drops part of their text."""
    last_turn_only: int
    """Pairs with only the last response in the loss although `train.loss_mask` is `all`, because the chat template
    rewrites an earlier one."""
    epochs: int
    special_token: int = 0
    """Pairs left out because they hold a control token that the tokenizer cannot write as text."""

    def once(self) -> dict[str, int]:
        """Returns the packed pairs, and the pairs left out or changed by reason, all of one epoch."""
        return {
            "pairs": self.pairs // self.epochs,
            "cut": self.cut,
            "over_length": self.over_length,
            "template_refused": self.template_refused,
            "special_token": self.special_token,
            "last_turn_only": self.last_turn_only,
        }

    def warnings(self) -> list[str]:
        """Returns a sentence for each reason for which pairs were left out or changed."""
        given = self.pairs // self.epochs + self.over_length + self.template_refused + self.special_token
        found = (
            (self.over_length, "do not fit train.sequence_length and are left out"),
            (self.template_refused, "are refused by the chat template and left out"),
            (self.special_token, "hold a control token that the tokenizer cannot write as text and are left out"),
            (self.cut, "are longer than train.sequence_length and lose their end"),
            (self.last_turn_only, "train on their last answer alone: the chat template rewrites an earlier one"),
        )
        return [f"{count:,} of {given:,} pairs ({count / given:.1%}) {what}" for count, what in found if count]
