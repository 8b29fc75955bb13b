"""Token bucket for a limit per minute."""

from __future__ import annotations


class Bucket:
    """Token bucket that gives out at most `per_minute` in any 60 seconds, and at most a second's share at once.

    An amount above a second's share passes when the bucket is full, and the next ones wait until it is paid off. So 60
    seconds can exceed the limit by at most one such amount. Example: at 600 per minute the share is 10; an amount of 25
    passes with a full bucket and leaves -15.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.capacity = max(1.0, per_minute / 60)
        # A window can begin with a full bucket, so its refill is less by that much.
        self.per_second = max(per_minute - self.capacity, per_minute / 2) / 60
        self.level = self.capacity
        self.at = now

    def wait(self, amount: float, now: float) -> float:
        """Returns the seconds until `amount` can be taken; 0 if it can be taken now."""
        self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.per_second)
        self.at = now
        missing = min(amount, self.capacity) - self.level
        return missing / self.per_second if missing > 1e-6 else 0.0

    def take(self, amount: float) -> None:
        """Takes `amount`; a negative amount is given back."""
        self.level = min(self.capacity, self.level - amount)
