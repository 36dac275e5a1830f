from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pytest

from async_delivery.analyses.profile import profile
from async_delivery.analyses.profile.sandbox import Sandbox
from async_delivery.plugins import AnalysisError, InputNotFoundError, InvalidInputError
from async_delivery.testing import RecordingContext, run_inline

MIB = 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "good.csv").write_text("a,b\n1,2\n")
    (folder / "star*.csv").write_text("a,b\n1,2\n")
    (folder / "star-other.csv").write_text("a,b\n3,4\n")
    (tmp_path / "secret.csv").write_text("secret\n1\n")
    return folder


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    workdir = tmp_path / "work"
    workdir.mkdir()
    return RecordingContext(workdir)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/*')",
        "SELECT * FROM glob('/*')",
        "COPY (SELECT 1) TO '/tmp/escaped.csv'",
        "ATTACH '/tmp/escaped.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_csv('https://localhost/x.csv')",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "RESET lock_configuration",
        "SET lock_configuration = false",
    ],
)
def test_the_sandbox_refuses_all_but_its_input_and_its_workdir(sql: str, context: RecordingContext) -> None:
    with (
        Sandbox(context, "/nonexistent", memory_limit_bytes=128 * MIB) as sandbox,
        pytest.raises(duckdb.Error),
    ):
        sandbox.query(sql)

    assert not Path("/tmp/escaped.csv").exists()
    assert not Path("/tmp/escaped.duckdb").exists()


def test_the_sandbox_allows_its_input_and_its_workdir(context: RecordingContext, tmp_path: Path) -> None:
    file = tmp_path / "input.csv"
    file.write_text("a\n1\n")

    with Sandbox(context, str(file), memory_limit_bytes=128 * MIB) as sandbox:
        assert sandbox.query(f"SELECT * FROM read_csv('{file}')") == [(1,)]
        sandbox.query(f"COPY (SELECT 1) TO '{context.workdir}/out.csv'")

    assert (context.workdir / "out.csv").exists()


def test_too_little_memory_has_its_own_error_code(context: RecordingContext) -> None:
    with (
        Sandbox(context, "/nonexistent", memory_limit_bytes=64 * MIB) as sandbox,
        pytest.raises(AnalysisError) as caught,
    ):
        sandbox.query("SELECT quantile_cont(range::DOUBLE, 0.5) FROM range(40000000)")

    assert caught.value.code == "out_of_memory"


def test_a_file_below_the_data_root_is_read(root: Path) -> None:
    report = run_inline(profile, {"path": "sub/good.csv"}, data_root=root).result

    assert report["dataset"]["origin"] == "path"
    assert report["dataset"]["name"] == "sub/good.csv"
    assert report["dataset"]["rows"] == 1


def test_a_link_that_stays_below_the_data_root_is_followed(root: Path) -> None:
    (root / "latest.csv").symlink_to("sub/good.csv")

    assert run_inline(profile, {"path": "latest.csv"}, data_root=root).result["dataset"]["rows"] == 1


def test_a_name_with_a_star_is_a_name_and_no_pattern(root: Path) -> None:
    report = run_inline(profile, {"path": "star*.csv"}, data_root=root).result

    assert report["dataset"]["rows"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "../secret.csv",
        "sub/../../secret.csv",
        "sub/../sub/good.csv",
        "escape.csv",
        "folder-out/secret.csv",
        "a\0b",
        "sub",
        ".",
        "pipe",
        "null",
        "circle",
        "x" * 300,
    ],
)
def test_no_path_leads_out_of_the_data_root_or_to_anything_but_a_file(path: str, root: Path) -> None:
    (root / "escape.csv").symlink_to(root.parent / "secret.csv")
    (root / "folder-out").symlink_to(root.parent)
    (root / "circle").symlink_to("circle")
    (root / "null").symlink_to("/dev/null")
    os.mkfifo(root / "pipe")

    with pytest.raises(InvalidInputError) as caught:
        run_inline(profile, {"path": path}, data_root=root)

    assert caught.value.field == "params.path"
    assert str(root.parent) not in str(caught.value)


def test_a_device_below_the_data_root_is_not_opened(root: Path) -> None:
    try:
        os.mknod(root / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device needs privileges")

    with pytest.raises(InvalidInputError, match="not a regular file"):
        run_inline(profile, {"path": "zero"}, data_root=root)


@pytest.mark.parametrize("path", ["missing.csv", "sub/missing.csv", "sub/good.csv/below"])
def test_a_missing_file_is_not_found_and_not_retried(path: str, root: Path) -> None:
    with pytest.raises(InputNotFoundError) as caught:
        run_inline(profile, {"path": path}, data_root=root)

    assert caught.value.code == "input_not_found"
    assert not caught.value.retryable
    assert str(root) not in str(caught.value)


def test_without_a_data_folder_every_path_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no data folder"):
        run_inline(profile, {"path": "x.csv"})


def test_nothing_is_left_in_the_data_folder_or_open(root: Path) -> None:
    before = sorted(root.rglob("*"))
    open_before = len(os.listdir("/proc/self/fd"))

    run_inline(profile, {"path": "sub/good.csv"}, data_root=root)

    assert sorted(root.rglob("*")) == before
    assert len(os.listdir("/proc/self/fd")) == open_before
