"""The catalogue comes from a child: a broken plug-in is an entry in it, never the server's problem."""

from __future__ import annotations

import subprocess
import sys

from async_delivery.domain.analysis import AnalysisInfo, Isolation
from async_delivery.worker.catalogue import load_catalogue
from tests.worker.support import MODULE

SELFTEST = {"selftest": "async_delivery.analyses.selftest:selftest"}


def test_each_analysis_is_described_with_its_schema_and_limits(infos: list[AnalysisInfo]) -> None:
    (eats,) = load_catalogue({"eats": f"{MODULE}:eats"})

    assert eats.available
    assert eats.limits.memory_bytes == 256 * 2**20
    assert eats.params_schema["properties"]["way"]["type"] == "string"
    assert next(info for info in infos if info.name == "fine-fresh").isolation is Isolation.FRESH


def test_analyses_that_cannot_be_imported_are_listed_with_the_reason(infos: list[AnalysisInfo]) -> None:
    found = {
        info.name: info
        for info in load_catalogue(
            {
                **SELFTEST,
                "absent": "no_such_module:function",
                "exits": "tests.worker.hangs_up:function",
                "dies": "tests.worker.breaks_import:function",
            }
        )
    }

    assert found["selftest"].available
    assert not found["absent"].available
    assert "no_such_module" in str(found["absent"].unavailable_reason)
    assert "not today" in str(found["exits"].unavailable_reason)
    assert found["dies"].unavailable_reason == "its import ended the process with exit code 9"


def test_no_analysis_is_an_empty_catalogue() -> None:
    assert load_catalogue({}) == []


def test_the_asking_process_imports_no_plugin_module() -> None:
    program = (
        "import sys\n"
        "from async_delivery.worker.catalogue import load_catalogue\n"
        f"infos = load_catalogue({SELFTEST!r})\n"
        "assert [info.name for info in infos] == ['selftest'], infos\n"
        "assert 'async_delivery.analyses.selftest' not in sys.modules\n"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
