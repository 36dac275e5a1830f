"""Stores that something has broken: a start refuses them in a sentence, or serves what is right."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from async_delivery.domain.errors import StoreFileError
from async_delivery.storage.opening import Mode, open_store
from tests.reliability.conftest import Score
from tests.reliability.killpoints_paths import STORE
from tests.reliability.mutations import ALL, DATABASE, Outcome, Template, make_template, prints, try_one
from tests.system.live import run_command

SHORT, LONG = 100, 1_000


@pytest.fixture
def template(tmp_path: Path) -> Template:
    return make_template(tmp_path / "template")


def broken(template: Template, folder: Path, seed: int, count: int) -> Outcome:
    outcome = Outcome()
    for number in range(count):
        target = folder / f"copy-{number}"
        try_one(template, ALL[number % len(ALL)], seed + number, target, outcome)
        shutil.rmtree(target)
    return outcome


@pytest.mark.slow
def test_a_broken_store_is_refused_or_serves_what_is_right(
    template: Template, tmp_path: Path, score: Score, seed: int
) -> None:
    outcome = broken(template, tmp_path, seed, SHORT)

    print(*outcome.wrong[:10], sep="\n")
    score("R24", "sqlite", len(outcome.wrong), cases=SHORT, seed=seed)
    assert outcome.refused > SHORT // 3
    assert outcome.served > SHORT // 10


@pytest.mark.long
def test_a_thousand_broken_stores_are_refused_or_serve_what_is_right(
    template: Template, tmp_path: Path, score: Score, seed: int
) -> None:
    outcome = broken(template, tmp_path, seed, LONG)

    print(f"{outcome.refused} refused, {outcome.served} served, {outcome.silent} with silently changed rows")
    print(*outcome.wrong[:10], sep="\n")
    score("R24", "sqlite", len(outcome.wrong), cases=LONG, seed=seed)


@pytest.mark.parametrize("part", [STORE, DATABASE])
def test_the_command_line_refuses_with_exit_code_1_and_one_sentence_that_names_the_file(
    template: Template, tmp_path: Path, part: str
) -> None:
    folder = template.folder / "rest"
    os.truncate(folder / part, 50)
    before = prints(folder)

    done = run_command("serve", "--port", "0", "--store-file", str(folder / STORE), cwd=tmp_path)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(folder / part) in done.stderr
    assert prints(folder) == before


def test_a_store_of_another_user_is_refused_and_stays_as_it_is(template: Template, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = template.folder / "rest"
    for above in {folder, *folder.parents, *tmp_path.parents} - set(Path(tempfile.gettempdir()).parents):
        if above != Path(tempfile.gettempdir()):
            above.chmod(0o755)
    (folder / DATABASE).chmod(0o600)
    before = prints(folder)

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            open_store(folder / STORE, Mode.SERVE)
        except StoreFileError as exc:
            code = 0 if str(folder / DATABASE) in exc.message else 2
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert prints(folder) == before
