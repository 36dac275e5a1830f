"""The nemesis: from a seed, a schedule of what goes wrong with the processes of a fleet.

Every blow is written down. The same seed makes the same choices; what it hits at which moment is up to the machine.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from tests.reliability.fleet import Fleet, is_up, kill, launch
from tests.system.live import LiveServer, eventually

# How often each kind of kill is chosen, relative to the others.
KILLS: Mapping[str, Mapping[str, int]] = {
    "sqlite": {"child": 12, "forkserver": 3, "server": 4, "all": 2, "recovery": 1},
    "postgres": {"child": 12, "forkserver": 3, "worker": 3, "server": 3, "all": 1, "recovery": 1},
}
# The same kinds, with fewer of those after which much has to start again.
QUICK_KILLS: Mapping[str, Mapping[str, int]] = {
    "sqlite": {"child": 30, "forkserver": 6, "server": 4, "all": 1, "recovery": 1},
    "postgres": {"child": 30, "forkserver": 6, "worker": 4, "server": 3, "all": 1},
}


class Nemesis:
    """Strikes a fleet. ``kills`` counts processes and groups that were killed, ``blows`` tells of each."""

    def __init__(self, fleet: Fleet, seed: int, kinds: Mapping[str, Mapping[str, int]] = KILLS) -> None:
        self._fleet = fleet
        self._chance = random.Random(f"{seed} nemesis")
        self._weights = kinds[fleet.store]
        self.kills = 0
        self.blows: list[str] = []

    def __str__(self) -> str:
        counts = Counter(blow.split()[0] for blow in self.blows)
        return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))

    def strike_until(self, kills: int) -> None:
        """Strike at random moments until so many kills are done; everything runs again afterwards."""
        while self.kills < kills:
            time.sleep(self._chance.uniform(0.0, 0.15))
            self.strike()
        self._fleet.start()

    def strike(self) -> None:
        """One blow. What it brought down is started again."""
        kind = self._chance.choices(list(self._weights), list(self._weights.values()))[0]
        getattr(self, f"_{kind}")()

    def _struck(self, kind: str, *victims: int) -> None:
        self.kills += 1
        self.blows.append(f"{kind} {' '.join(map(str, victims))}")

    def _up(self, nodes: Sequence[LiveServer]) -> LiveServer:
        """One of ``nodes`` that answers; the others may still be starting."""
        node = self._chance.choice(list(nodes))
        launch(node)
        node.ready()
        return node

    # ------------------------------------------------------------ blows
    def _child(self) -> None:
        """A process of an analysis."""
        node = self._up(self._fleet.workers)
        children = eventually(lambda: self._fleet.children(node), "no analysis runs")
        victim = self._chance.choice(children)
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            self._struck("child", victim.pid)

    def _forkserver(self) -> None:
        """The process from which those of analyses are forked."""
        node = self._up(self._fleet.workers)
        for victim in self._fleet.forkservers(node):
            with suppress(psutil.NoSuchProcess):
                victim.kill()
                self._struck("forkserver", victim.pid)

    def _node(self, kind: str, nodes: Sequence[LiveServer]) -> None:
        node = self._up(nodes)
        assert node.process is not None
        victim = node.process.pid
        os.kill(victim, signal.SIGKILL)  # its children are left to notice
        node.process.wait(timeout=30)
        self._struck(kind, victim)
        launch(node)
        if len(nodes) == 1:
            node.ready()

    def _worker(self) -> None:
        self._node("worker", self._fleet.workers)

    def _server(self) -> None:
        self._node("server", self._fleet.servers)

    def _all(self) -> None:
        """Every process of the fleet."""
        kill(self._fleet.nodes)
        self._struck("all")
        self._fleet.start()

    def _recovery(self) -> None:
        """Every process, and again up to half a second into the start."""
        kill(self._fleet.nodes)
        self._struck("all")
        for node in self._fleet.nodes:
            launch(node)
        time.sleep(self._chance.uniform(0.0, 0.5))
        kill(self._fleet.nodes)
        self._struck("recovery")
        self._fleet.start()


def freeze(node: LiveServer) -> list[psutil.Process]:
    """SIGSTOP for all processes of ``node``, which are returned."""
    assert is_up(node)
    frozen = node.processes()
    for one in frozen:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    return frozen


def thaw(frozen: Sequence[psutil.Process]) -> None:
    """SIGCONT for those that are left, children first, so that they can write before their parent looks."""
    for one in reversed(frozen):
        with suppress(psutil.NoSuchProcess):
            one.resume()
