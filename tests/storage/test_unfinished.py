"""What was left by a process that was killed half-way, and those who come after it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from async_delivery.settings import Settings
from async_delivery.storage.opening import create_store
from async_delivery.storage.replacing import Replacement
from async_delivery.wiring.transfer import convert
from tests.domain.support import NOON
from tests.storage.documents import whole, written


def test_the_copy_that_a_killed_cleanup_of_a_document_left_goes_with_the_next(tmp_path: Path) -> None:
    path = written(tmp_path / "store.v1.json", whole("completed"))
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = tmp_path / f".store.v1.json.{gone.pid}.new"
    left.touch()

    with Replacement(path) as new:
        new.out.write(b"{}")
        new.commit()

    assert not left.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["store.v1.json"]


def test_a_conversion_that_was_killed_before_it_moved_anything_can_be_repeated(tmp_path: Path) -> None:
    path = written(tmp_path / "store.v1.json", whole("completed"))
    create_store(tmp_path / ".store.v1.json.converting", store_id="store-1", now=NOON)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".store.v1.json.convert-20260301T120000Z.account.json.{gone.pid}.part").touch()

    moved = convert(Settings(store_file=path), None)

    assert moved.file.store_id == "store-1"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
