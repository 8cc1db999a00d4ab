"""How long to wait before the same batch is sent again."""

from __future__ import annotations

import random
from collections.abc import Callable

# A vendor may ask for hours by mistake (or by an HTTP-date and a clock that is off); past this we ask again,
# which costs one request.
RETRY_AFTER_CAP_S = 300.0


class Backoff:
    """
    Full jitter: anything between nothing and a bound that doubles up to a cap.

    See: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, base_s: float, cap_s: float, uniform: Callable[[float, float], float] = random.uniform) -> None:
        """
        Args:
            base_s: Bound of the first wait, in seconds.
            cap_s: The bound never exceeds this.
            uniform: Draws a number between two; a test may give its own.
        """
        self._base_s, self._cap_s, self._uniform = base_s, cap_s, uniform
        self.attempts = 0

    def next_s(self, retry_after_s: float | None = None) -> float:
        """The seconds to wait now; `retry_after_s`, what the vendor asked for, is a minimum (up to 300 s)."""
        bound = min(self._cap_s, self._base_s * 2 ** min(self.attempts, 32))
        self.attempts += 1
        wait = self._uniform(0.0, bound)
        if retry_after_s is not None:
            wait = max(wait, min(retry_after_s, RETRY_AFTER_CAP_S))
        return wait

    def reset(self) -> None:
        """Something was accepted: the next failure starts from the beginning."""
        self.attempts = 0
