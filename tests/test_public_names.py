"""What ``import async_delivery`` gives, and what it does not cost."""

import subprocess
import sys
from pathlib import Path

import pytest

import async_delivery
from async_delivery.wiring.stores import init_store, open_for_cleanup


def test_every_public_name_is_there() -> None:
    assert [name for name in async_delivery.__all__ if getattr(async_delivery, name, None) is None] == []


def test_a_store_can_be_cleaned_up_from_python(tmp_path: Path) -> None:
    from async_delivery import cleanup_retention

    init_store(tmp_path / "s.json", None)
    with open_for_cleanup(tmp_path / "s.json", dry_run=False) as store:
        report = cleanup_retention(store, results_ttl_seconds=0, events_ttl_seconds=0)

    assert (report.exit_code, report.results.delete_count) == (0, 0)


def test_other_names_are_refused_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = async_delivery.no_such_name


def test_the_import_alone_loads_nothing_heavy() -> None:
    program = (
        "import sys, async_delivery; print(*(n for n in sys.modules if n.startswith('async_delivery.')))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""
