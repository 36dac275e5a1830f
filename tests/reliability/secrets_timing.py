"""Whether two kinds of requests can be told apart by how long their answers take. Nothing of the product is imported.

The machine is shared and noisy, so the kinds are asked in turns, in random order within each pair, over one
connection: whatever disturbs, disturbs both. Each sample is the shortest of a few requests for the same id in a row,
which is what somebody who listens would do, and what takes away most of the noise but none of a difference.
"""

from __future__ import annotations

import math
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPEATS = 3


@dataclass(frozen=True, slots=True)
class Told:
    """How well one kind is told from the other: 0.5 is by chance, 1 (or 0) is always.

    error   standard error of ``auc``, by Hanley and McNeil, Radiology 143 (1982)
    """

    auc: float
    error: float

    @property
    def distance(self) -> float:
        """As good as an AUC above a half, whichever kind is the slower one."""
        return max(self.auc, 1.0 - self.auc)


def compare(one: Sequence[float], other: Sequence[float]) -> Told:
    """The chance that a sample of ``one`` is larger than one of ``other``; equal ones count half."""
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    rank_sum, at = 0.0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        middle = (at + 1 + end) / 2
        rank_sum += middle * sum(kind == 0 for _, kind in ranked[at:end])
        at = end
    n, m = len(one), len(other)
    auc = (rank_sum - n * (n + 1) / 2) / (n * m)
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    variance = (auc * (1 - auc) + (n - 1) * (q1 - auc * auc) + (m - 1) * (q2 - auc * auc)) / (n * m)
    return Told(auc, math.sqrt(max(variance, 0.0)))


class Asker:
    """One connection that is kept, and the time from the last byte sent to the last byte received."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._connection.close()

    def seconds(self, request: bytes, status: bytes) -> float:
        began = time.perf_counter()
        self._connection.sendall(request)
        data = self._connection.recv(65_536)
        taken = time.perf_counter() - began
        while b"\r\n\r\n" not in data or not data.endswith(b"}"):
            data += self._connection.recv(65_536)
            taken = time.perf_counter() - began
        assert data.startswith(b"HTTP/1.1 " + status), data[:300]
        return taken


def sample(
    asker: Asker, kinds: Sequence[Callable[[], bytes]], wanted: int, chance: random.Random
) -> tuple[list[float], list[float]]:
    """``wanted`` samples of each of two kinds of requests."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(wanted):
        order = [0, 1]
        chance.shuffle(order)
        for kind in order:
            request = kinds[kind]()
            found[kind].append(min(asker.seconds(request, b"404") for _ in range(REPEATS)))
    return found
