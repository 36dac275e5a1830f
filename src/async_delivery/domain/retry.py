"""When a failed attempt is tried again. The randomness is the caller's."""

from __future__ import annotations


def delay_seconds(attempt: int, jitter: float, *, base: float = 2.0, cap: float = 3600.0) -> float:
    """Seconds to wait after failed attempt number ``attempt`` (>= 1), between 0 and ``cap``.

    jitter is a uniform sample from [0, 1), drawn by the caller so this stays pure.
    Full jitter: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    Raises ValueError if attempt < 1.
    """
    if attempt < 1:
        raise ValueError(f"attempt must be >= 1, got {attempt}")
    # min() on the exponent too: 2.0 ** 1100 would overflow.
    return float(jitter * min(cap, base * 2.0 ** min(attempt - 1, 62)))


def crash_delay_seconds(crashes: int, jitter: float, *, base: float = 2.0, cap: float = 3600.0) -> float:
    """Seconds to wait after a child died by itself for the ``crashes``-th time (>= 1).

    The first death is answered at once: most are a machine's accident, and the tenant waits.
    """
    return 0.0 if crashes <= 1 else delay_seconds(crashes - 1, jitter, base=base, cap=cap)
