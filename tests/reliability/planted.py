"""Tests of the tests: plants known bugs in a scratch copy of the service, one by one; each must turn a figure red.

Run ``python -m tests.reliability.planted [NAME...] [--json FILE]`` from the checkout. First the tests run on the copy
as it is, where they must pass; then with each bug. A bug is found when a figure that it should turn red misses its
target, on every store that it is planted for; a crash of the tests finds nothing. Where chance took part, the same
test runs again with the seed that it printed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.planted_list import BY_NAME, PLANTS
from tests.reliability.planted_plant import Plant
from tests.reliability.planted_scratch import Ran, Scratch, scratch
from tests.reliability.scorecard import write_json

GREEN_SECONDS = 3_600.0
SECONDS = 600.0


@dataclass(slots=True)
class Found:
    """A figure that a bug turned red. ``again``: also in a second run with its seed; None where it has none."""

    figure: str
    store: str
    measured: float | None
    cases: int
    seed: int | None
    test: str
    again: bool | None = None


@dataclass(slots=True)
class Verdict:
    """What became of one bug.

    found     the figures that were to turn red and did
    others    further figures that missed their targets
    why       what happened instead, if it was not found
    seconds   of all its runs
    """

    name: str
    red: bool
    why: str = ""
    found: list[Found] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has shown."""

    verdicts: list[Verdict]

    @property
    def red_percent(self) -> float:
        """Share of the bugs that turned a figure red."""
        return 100 * sum(one.red for one in self.verdicts) / max(1, len(self.verdicts))

    @property
    def retried(self) -> list[Verdict]:
        """Those found by a test in which chance took part."""
        return [one for one in self.verdicts if any(found.again is not None for found in one.found)]

    @property
    def again_percent(self) -> float:
        """Share of these that were found again with the printed seeds, on every store."""
        came = [all(found.again is not False for found in one.found) for one in self.retried]
        return 100 * sum(came) / max(1, len(came))

    def as_json(self) -> dict[str, Any]:
        """For programs, and for the page."""
        return {"measured_at": time.strftime("%Y-%m-%d"), "plants": [asdict(one) for one in self.verdicts]}


def judge(plant: Plant, ran: Ran) -> Verdict:
    """What one run with ``plant`` shows."""
    expected = [one for one in ran.missed if one["key"] in plant.figures]
    found = [
        Found(one["key"], one["store"], one["measured"], one["cases"], one["seed"], one["test"])
        for one in expected
    ]
    others = sorted({one["key"] for one in ran.missed} - {one.figure for one in found})
    stores = {one.store for one in found}
    unseen = [] if "-" in stores else [store for store in plant.stores if store not in stores]
    if not unseen:
        return Verdict(plant.name, True, found=found, others=others)
    where = f"on {' and '.join(unseen)} "
    match ran.code:
        case 0:
            why = f"{where}every test passed"
        case 1:
            why = f"{where}tests failed, and no figure that was to turn red did: {tail(ran.output)}"
        case code:
            why = f"pytest ended with {code}: {tail(ran.output)}"
    return Verdict(plant.name, False, why, found, others)


def tail(output: str) -> str:
    """What pytest says last of its failures."""
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    return " | ".join(lines[-6:])[:1_500] or output[-500:]


def once_more(copy: Scratch, found: Found) -> bool:
    """Whether the same test misses the same figure with the seed that it has printed."""
    ran = copy.run([found.test], SECONDS, seed=found.seed)
    return any((one["key"], one["store"]) == (found.figure, found.store) for one in ran.missed)


def try_plant(copy: Scratch, plant: Plant, *, again: bool = True) -> Verdict:
    """Run its tests with ``plant`` in the copy; those that chance took part in once more if ``again``."""
    began = time.monotonic()
    with copy.planted(plant.edits):
        verdict = judge(plant, copy.run(plant.tests, SECONDS))
        if verdict.red and again:
            for one in first_of_each_store(verdict.found):
                if one.seed is not None:
                    one.again = once_more(copy, one)
    verdict.seconds = round(time.monotonic() - began, 1)
    return verdict


def first_of_each_store(found: Sequence[Found]) -> Iterable[Found]:
    """One figure for each store is enough to be run again."""
    return {one.store: one for one in reversed(found)}.values()


def not_green(copy: Scratch, plants: Sequence[Plant], say: Callable[[str], None]) -> set[str]:
    """Of the tests of ``plants``, those that do not pass without any bug. A second try is given."""
    tests = list(dict.fromkeys(test for plant in plants for test in plant.tests))
    ran = copy.run(tests, GREEN_SECONDS)
    if ran.code == 0 and not ran.skipped:
        return set()
    say(f"not all passed without a bug: {tail(ran.output)}")
    return {test for test in tests if (once := copy.run([test], SECONDS)).code or once.skipped}


def run(plants: Sequence[Plant], say: Callable[[str], None], keep: Path | None = None) -> Report:
    """Try all of ``plants``; ``say`` hears of each, and ``keep`` has what was found so far."""
    verdicts: list[Verdict] = []
    with scratch() as copy:
        began = time.monotonic()
        failing = not_green(copy, plants, say)
        say(f"without a bug: {time.monotonic() - began:.0f} s, {len(failing)} tests do not pass")
        for plant in plants:
            if bad := failing & set(plant.tests):
                verdict = Verdict(plant.name, False, f"without the bug does not pass: {', '.join(bad)}")
            else:
                verdict = try_plant(copy, plant)
            verdicts.append(verdict)
            say(words(verdict))
            if keep is not None:
                write_json(keep, Report(verdicts).as_json())
    return Report(verdicts)


def words(verdict: Verdict) -> str:
    """One line for a person."""
    if not verdict.red:
        return f"NOT FOUND  {verdict.name} ({verdict.seconds:g} s): {verdict.why}"
    said = ", ".join(
        f"{one.figure} on {one.store}: {one.measured}"
        + ({None: "", True: ", again with its seed", False: ", NOT again with its seed"}[one.again])
        for one in verdict.found
    )
    return f"red        {verdict.name} ({verdict.seconds:g} s): {said}"


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.planted", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all if none is named")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    parser.add_argument("--list", action="store_true", help="show the bugs and run nothing")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in BY_NAME]:
        parser.error(f"no such bug: {', '.join(unknown)}")
    plants = [BY_NAME[name] for name in asked.names] or list(PLANTS)
    if asked.list:
        for plant in plants:
            print(f"{plant.name}: {plant.fault}")
        return 0
    report = run(plants, lambda line: print(line, flush=True), asked.json)
    found, retried = sum(one.red for one in report.verdicts), report.retried
    print(f"{found} of {len(plants)} turned a figure red", end="")
    print(f"; {report.again_percent:.0f} % of {len(retried)} again with their seeds" if retried else "")
    return 0 if found == len(plants) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
