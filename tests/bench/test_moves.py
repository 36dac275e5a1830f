"""The measurement of moves works, and in its long form holds them to their limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from async_delivery.storage.document import Document
from bench.moves import run, write_document

STEPS = ["cleanup --dry-run", "store convert", "store export", "store import", "store import again"]


def test_the_document_that_is_measured_is_one_that_the_program_reads(tmp_path: Path) -> None:
    write_document(tmp_path / "d.json", 41)

    with Document(tmp_path / "d.json") as document:
        assert len(document.job_ids()) == 41
        assert document.strays() == []
    assert list(json.loads((tmp_path / "d.json").read_text())) == [
        *("events", "jobs", "notifications", "results", "schema_version")
    ]


@pytest.mark.long
def test_a_hundred_thousand_jobs_move_within_a_gigabyte(tmp_path: Path) -> None:
    costs = run(100_000, tmp_path)

    assert [cost.step for cost in costs] == STEPS
    assert all(cost.max_rss_bytes < 1 << 30 for cost in costs), costs
    # The processor's time, as a machine that others use too gives less of it in a minute.
    assert all(cost.cpu_seconds < 120 for cost in costs), costs
