"""A token bucket: a limit per minute."""

from __future__ import annotations


class Bucket:
    """A token bucket that gives out at most `per_minute` in any 60 seconds, at most a second's share at once.

    A single request above a second's share is let through when the bucket is full and paid off afterwards, so a window
    can exceed the limit by at most one such request.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.capacity = max(1.0, per_minute / 60)
        self.per_second = max(per_minute - self.capacity, per_minute / 2) / 60
        self.level = self.capacity
        self.at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken; 0 if it can be now."""
        self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.per_second)
        self.at = now
        missing = min(amount, self.capacity) - self.level
        return missing / self.per_second if missing > 1e-6 else 0.0

    def take(self, amount: float) -> None:
        """Take `amount`, or give it back where it is negative."""
        self.level = min(self.capacity, self.level - amount)
