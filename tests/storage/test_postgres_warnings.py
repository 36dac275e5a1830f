"""What an operator hears of a PostgreSQL that is set up so that accepted jobs may be lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from async_delivery import telemetry
from async_delivery.storage.opening import Mode, open_store
from tests.postgres import shared_server

pytestmark = pytest.mark.postgres


def test_a_server_is_warned_at_start_and_health_says_the_same(tmp_path: Path) -> None:
    file = shared_server().new_store_file(tmp_path)
    with psycopg.connect(file.database, autocommit=True) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    heard: list[tuple[str, dict[str, Any]]] = []
    detach = telemetry.attach(lambda fact, values: heard.append((fact, values)))

    try:
        open_store(file.path, Mode.READ_ONLY).close()
        assert heard == []
        store = open_store(file.path, Mode.SERVE)
        durability = store.durability
        store.close()
    finally:
        detach()

    weak = [values["warning"] for fact, values in heard if fact == "store.weak"]
    # A server for tests may have other weaknesses as well.
    assert "synchronous_commit=off: a crash of the database loses jobs accepted just before it" in weak
    assert durability == f"NOT DURABLE as set up: {'; '.join(weak)}"
