"""The writer's thread alone, over a session that only counts: who is committed with whom, and who waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from async_delivery.domain.errors import UnavailableError
from async_delivery.storage import writer as writer_module
from async_delivery.storage.writer import Writer

LONG = 60.0


class Counting:
    """A session without a database. ``groups``: what each committed transaction was given, in order."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    def begin(self) -> list[str]:
        return []

    def mark(self, transaction: list[str]) -> int:
        return len(transaction)

    def keep(self) -> None:
        pass

    def undo(self, transaction: list[str], mark: int) -> bool:
        del transaction[mark:]
        return True

    def restart(self, transaction: list[str]) -> bool:
        transaction.clear()
        return True

    def commit(self) -> None:
        pass

    def abandon(self, exc: BaseException) -> None:
        pass

    def make_room(self, exc: BaseException) -> bool:
        return False

    def explain(self, exc: BaseException) -> UnavailableError:
        return UnavailableError(str(exc))

    def tell(self, transaction: list[str]) -> None:
        self.groups.append(transaction)

    def close(self) -> None:
        pass


@pytest.fixture
def session() -> Counting:
    return Counting()


@pytest.fixture
def writing(session: Counting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    # For ever, by the measure of a test; and so that a slow machine takes nobody for gone.
    monkeypatch.setattr(writer_module, "COMPANY_SECONDS", LONG)
    monkeypatch.setattr(writer_module, "COMPANY_LASTS_SECONDS", LONG)
    made = Writer(session, "writer-under-test")
    yield made
    made.close()


def noting(name: str) -> Callable[[Any], None]:
    return lambda transaction: transaction.append(name)


def in_one_group(writing: Writer, *names: str) -> None:
    gate = threading.Event()

    def first(transaction: list[str]) -> None:
        gate.wait(LONG)
        transaction.append(names[0])

    futures: list[Future[Any]] = [
        writing.submit(first),
        *(writing.submit(noting(name)) for name in names[1:]),
    ]
    gate.set()
    for future in futures:
        future.result(LONG)


def test_one_who_writes_alone_waits_for_nobody(writing: Writer, session: Counting) -> None:
    for name in "abc":
        writing.submit(noting(name)).result(LONG / 2)

    writing.close()
    assert session.groups == [["a"], ["b"], ["c"]]


def test_those_who_were_about_are_committed_together_again(writing: Writer, session: Counting) -> None:
    in_one_group(writing, "a", "b")

    again = writing.submit(noting("a"))
    with pytest.raises(TimeoutError):
        again.result(0.02)
    writing.submit(noting("b")).result(LONG / 2)
    again.result(LONG / 2)

    writing.close()
    assert session.groups == [["a", "b"], ["a", "b"]]


def test_one_who_has_waited_in_vain_waits_no_second_time(
    writing: Writer, session: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_one_group(writing, "a", "b")
    monkeypatch.setattr(writer_module, "COMPANY_SECONDS", 0.01)
    writing.submit(noting("a")).result(LONG)
    monkeypatch.setattr(writer_module, "COMPANY_SECONDS", LONG)

    writing.submit(noting("a")).result(LONG / 2)

    writing.close()
    assert session.groups == [["a", "b"], ["a"], ["a"]]


def test_who_comes_after_a_pause_waits_for_nobody(
    writing: Writer, session: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "COMPANY_LASTS_SECONDS", -1.0)
    in_one_group(writing, "a", "b")

    writing.submit(noting("a")).result(LONG / 2)

    writing.close()
    assert session.groups == [["a", "b"], ["a"]]


def test_the_end_is_waited_for_by_nobody_either(writing: Writer, session: Counting) -> None:
    in_one_group(writing, "a", "b")

    last = writing.submit(noting("a"))
    writing.close()

    assert last.done()
    assert session.groups == [["a", "b"], ["a"]]
