from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from async_delivery.domain import analysis as domain
from async_delivery.plugins import (
    Analysis,
    Context,
    Executor,
    InputMode,
    InvalidInputError,
    Isolation,
    PluginError,
    analysis,
    describe,
    discover,
    load,
    preload_modules,
)
from async_delivery.testing import RecordingContext

SELFTEST = "async_delivery.analyses.selftest:selftest"


class Model(BaseModel):
    stages: int = Field(3, ge=1)
    name: str


class OpenModel(Model):
    model_config = ConfigDict(extra="allow")


@dataclass
class Point:
    x: int
    y: int = 0


class Pair(TypedDict):
    left: int
    right: int


class Tree(BaseModel):
    children: list[Tree] = []


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    return RecordingContext(tmp_path, query="subject")


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("planted_"):
            del sys.modules[name]


def test_a_decorated_function_can_still_be_called_as_the_function_it_is() -> None:
    @analysis("double")
    def double(*, n: int) -> int:
        """Double a number."""
        return 2 * n

    assert double(n=21) == 42
    assert inspect.getdoc(double) == "Double a number."


def test_the_catalogue_entry_comes_from_the_decorator_and_the_docstring() -> None:
    @analysis("word-count", "2", max_attempts=5, isolation="fresh", input="required", requires=("json",))
    def count_words(*, context: Context) -> int:
        """Count the words
        of a text.

        More for developers.
        """
        return len((context.query or "").split())

    info = count_words.info()

    assert (info.name, info.version, info.title) == ("word-count", "2", "Word count")
    assert info.description == "Count the words of a text."
    assert info.limits.max_attempts == 5
    assert (info.isolation, info.input) == (Isolation.FRESH, InputMode.REQUIRED)
    assert info.requires == ("json",)


def test_params_become_a_json_schema_that_refuses_unknown_names() -> None:
    @analysis("schema")
    def schema(*, stages: Annotated[int, Field(ge=0, le=9)] = 3, name: str, context: Context) -> None:
        """Nothing."""

    found = schema.info().params_schema
    validator = jsonschema_rs.Draft202012Validator(dict(found))

    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["required"] == ["name"]
    assert found["properties"]["stages"] == {
        "default": 3,
        "maximum": 9,
        "minimum": 0,
        "title": "Stages",
        "type": "integer",
    }
    assert validator.is_valid({"name": "x"})
    assert not validator.is_valid({"name": "x", "other": 1})


@pytest.mark.parametrize(
    ("kind", "good", "value"),
    [
        (Model, {"name": "n", "stages": 2}, Model(name="n", stages=2)),
        (OpenModel, {"name": "n", "more": 1}, OpenModel.model_validate({"name": "n", "more": 1})),
        (Point, {"x": 1}, Point(1, 0)),
        (Pair, {"left": 1, "right": 2}, {"left": 1, "right": 2}),
        (Tree, {"children": [{"children": []}]}, Tree(children=[Tree()])),
        (dict[str, Any], {"anything": [1]}, {"anything": [1]}),
    ],
)
def test_params_arrive_in_the_annotated_type(
    kind: Any, good: dict[str, Any], value: Any, context: RecordingContext
) -> None:
    def function(params, context):  # type: ignore[no-untyped-def]
        return params

    function.__annotations__["params"] = kind
    made: Analysis[..., Any] = analysis("typed")(function)

    assert jsonschema_rs.Draft202012Validator(dict(made.info().params_schema)).is_valid(good)
    assert made.run(good, context) == value


def test_keyword_params_get_their_defaults_anew_each_time(context: RecordingContext) -> None:
    @analysis("defaults")
    def defaults(*, items: list[int] = [], n: int = 1) -> list[int]:  # noqa: B006
        items.append(n)
        return items

    assert defaults.run({}, context) == [1]
    assert defaults.run({}, context) == [1]
    assert defaults.run({"items": [7], "n": 8}, context) == [7, 8]


def test_every_fault_of_the_params_is_named_at_once(context: RecordingContext) -> None:
    @analysis("faults")
    def faults(params: Model, context: Context) -> None:
        raise AssertionError("must not run")

    with pytest.raises(InvalidInputError) as caught:
        faults.run({"stages": 0, "unknown": 1}, context)

    assert [each.field for each in caught.value.details] == ["params.unknown", "params.stages", "params.name"]
    assert caught.value.code == "invalid_input"
    assert not caught.value.retryable
    assert all(each.issue in str(caught.value) for each in caught.value.details)


def test_an_uploaded_file_is_refused_where_none_is_taken_and_missed_where_one_is_needed(
    context: RecordingContext, tmp_path: Path
) -> None:
    from async_delivery.testing import input_file

    @analysis("none")
    def takes_none(context: Context) -> None: ...

    @analysis("required", input="required")
    def needs_one(context: Context) -> None: ...

    (tmp_path / "f").write_bytes(b"x")
    with_file = RecordingContext(tmp_path, input=input_file(tmp_path / "f"))

    with pytest.raises(InvalidInputError, match="takes no uploaded file"):
        takes_none.run({}, with_file)
    with pytest.raises(InvalidInputError, match="needs an uploaded file"):
        needs_one.run({}, context)
    needs_one.run({}, with_file)


def no_hint(*, n): ...  # type: ignore[no-untyped-def]
def star(*args: int): ...  # type: ignore[no-untyped-def]
def both(params: Model, n: int): ...  # type: ignore[no-untyped-def]
def not_object(params: list[int]): ...  # type: ignore[no-untyped-def]
def unknown_hint(*, n: Missing): ...  # type: ignore[name-defined,no-untyped-def] # noqa: F821
def field_default(*, n: int = Field(1)): ...  # type: ignore[no-untyped-def]
def generator(*, n: int):  # type: ignore[no-untyped-def]
    yield n


async def coroutine(*, n: int): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (no_hint, "n needs a type hint"),
        (star, r"\*args has no place"),
        (both, "not both"),
        (not_object, "must be an object"),
        (unknown_hint, "Missing"),
        (field_default, "Annotated"),
        (generator, "is a generator"),
        (coroutine, "is an async function"),
        (print, "a plain function"),
    ],
)
def test_a_function_that_cannot_be_an_analysis_is_refused_where_it_is_decorated(
    function: Any, says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        analysis("bad")(function)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "Upper"},
        {"name": "x" * 65},
        {"name": ""},
        {"name": "a/b"},
        {"name": "ok", "version": ""},
        {"name": "ok", "timeout_seconds": 0},
        {"name": "ok", "timeout_seconds": float("nan")},
        {"name": "ok", "memory_bytes": -1},
        {"name": "ok", "max_attempts": 0},
        {"name": "ok", "isolation": "cold"},
        {"name": "ok", "input": "maybe"},
    ],
)
def test_wrong_settings_of_an_analysis_are_refused_where_it_is_decorated(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        analysis(**arguments)


@pytest.mark.parametrize(
    ("arguments", "executor"),
    [
        ({}, Executor.CHILD),
        ({"executor": "child"}, Executor.CHILD),
        ({"executor": "ray"}, Executor.RAY),
        ({"resources": {"num_gpus": 1}}, Executor.RAY),
        ({"resources": {"num_cpus": 0.5, "memory": 2**30, "tpu-v5": 2}, "executor": "ray"}, Executor.RAY),
    ],
)
def test_an_analysis_runs_in_a_child_unless_it_asks_for_ray_or_its_resources(
    arguments: dict[str, Any], executor: Executor
) -> None:
    info = analysis("placed", runs_on={"zone": "eu-1"}, **arguments)(lambda: None).info()

    assert info.executor is executor
    assert dict(info.resources) == arguments.get("resources", {})
    limits = domain.to_json(info)["limits"]
    assert (limits["executor"], limits["runs_on"]) == (str(executor), {"zone": "eu-1"})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"executor": "dask"}, "executor must be 'child' or 'ray', got 'dask'"),
        ({"executor": "child", "resources": {"num_gpus": 1}}, "executor must be 'ray'"),
        ({"resources": ["num_gpus"]}, "resources must be a mapping"),
        ({"resources": {"num_gpus": "1"}}, r"resources\['num_gpus'\] must be a number"),
        ({"resources": {"num_gpus": True}}, r"resources\['num_gpus'\] must be a number"),
        ({"resources": {"num_gpus": 1.5}}, r"resources\['num_gpus'\] must be a whole number or at most 1"),
        ({"resources": {"num_cpus": -1}}, r"resources\['num_cpus'\] must be greater than 0"),
        ({"resources": {"num_cpus": float("inf")}}, r"resources\['num_cpus'\] must be a number"),
        ({"resources": {"memory": 0.5}}, r"resources\['memory'\] must be a whole number of bytes"),
        ({"resources": {"tpu": 0}}, r"resources\['tpu'\] must be greater than 0"),
        ({"resources": {"GPU": 1}}, r"resources\['GPU'\]: use 'num_gpus'"),
        ({"resources": {"": 1}}, "resources: a name must match"),
        ({"runs_on": "eu"}, "runs_on must be a mapping"),
        ({"runs_on": {"zone": 1}}, r"runs_on\['zone'\] must match"),
        ({"runs_on": {"-": "x"}}, "runs_on: a label must match"),
    ],
)
def test_a_wrong_placement_is_refused_by_the_name_of_its_field(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        analysis("misplaced", **arguments)


def test_an_analysis_for_ray_without_ray_is_known_and_says_what_to_install(
    plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plugin_folder / "planted_on_ray.py").write_text(
        "from async_delivery.plugins import analysis\n"
        "@analysis('on-ray', executor='ray')\n"
        "def f() -> int:\n    return 1\n"
    )
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed, wherever this runs

    (info,) = describe({"on-ray": "planted_on_ray:f"})

    assert info.executor is Executor.RAY
    assert not info.available
    assert info.unavailable_reason == "needs ray, which is not installed: pip install 'async-delivery[ray]'"


def test_the_built_in_analyses_are_found_without_being_imported() -> None:
    assert discover()["selftest"] == SELFTEST
    assert discover()["profile"] == "async_delivery.analyses.profile:profile"


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("no_colon", "module:function"),
        ("planted_missing:f", "No module named 'planted_missing'"),
        ("os:nothing", "os has no nothing"),
        ("os:getcwd", "not an analysis"),
        ("planted_broken:f", "RuntimeError: kaput"),
        ("planted_exits:f", "SystemExit"),
        ("planted_needs:f", "needs planted_absent, which is not installed"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_says_why(ref: str, says: str, plugin_folder: Path) -> None:
    (plugin_folder / "planted_broken.py").write_text("raise RuntimeError('kaput')")
    (plugin_folder / "planted_exits.py").write_text("import sys; sys.exit(3)")
    (plugin_folder / "planted_needs.py").write_text("import planted_absent")

    with pytest.raises(PluginError) as caught:
        load(ref)

    assert says in caught.value.message


PLANTED = """
from async_delivery.plugins import analysis

@analysis("planted", version={version!r}, requires={requires!r})
def f(*, n: int = 1):
    '''Planted.'''
    return n
"""


def test_a_broken_plugin_is_described_as_unavailable_and_harms_no_other(plugin_folder: Path) -> None:
    (plugin_folder / "planted_broken.py").write_text("raise RuntimeError('kaput')")

    broken, selftest = describe({"broken": "planted_broken:f", "selftest": SELFTEST})

    assert (broken.name, broken.available) == ("broken", False)
    assert "kaput" in (broken.unavailable_reason or "")
    assert (selftest.name, selftest.available, selftest.unavailable_reason) == ("selftest", True, None)


def test_a_missing_requirement_makes_an_analysis_unavailable_but_known(plugin_folder: Path) -> None:
    (plugin_folder / "planted_one.py").write_text(PLANTED.format(version="1", requires=("planted_absent",)))

    (info,) = describe({"planted": "planted_one:f"})

    assert not info.available
    assert info.unavailable_reason == "needs planted_absent, which is not installed"
    assert info.params_schema["properties"]["n"]["default"] == 1
    assert preload_modules({"planted": "planted_one:f"}) == []


def test_without_duckdb_the_reason_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)

    (info,) = describe({"profile": "async_delivery.analyses.profile:profile"})

    assert not info.available
    assert (
        info.unavailable_reason
        == "needs duckdb, which is not installed: pip install 'async-delivery[profile]'"
    )


def test_an_entry_point_under_another_name_than_the_analysis_is_not_offered() -> None:
    (info,) = describe({"other": SELFTEST})

    assert (info.name, info.available) == ("other", False)
    assert "calls itself selftest" in (info.unavailable_reason or "")


def test_a_ref_given_by_hand_carries_its_own_name_and_replaces_an_installed_one(plugin_folder: Path) -> None:
    (plugin_folder / "planted_one.py").write_text(PLANTED.format(version="1", requires=()))
    (plugin_folder / "planted_two.py").write_text(PLANTED.format(version="2", requires=()))

    (info,) = describe({"planted": "planted_one:f", "planted_two:f": "planted_two:f"})

    assert (info.name, info.version, info.source) == ("planted", "2", "planted_two:f")


def test_preloading_covers_the_module_and_what_it_imports_late() -> None:
    modules = preload_modules(discover())

    assert "async_delivery.analyses.selftest" in modules
    assert "async_delivery.analyses.profile" in modules
    assert "duckdb" in modules


def test_descriptions_survive_the_way_through_json() -> None:
    for info in describe({**discover(), "broken": "no_such_module:f"}):
        assert domain.from_json(json.loads(json.dumps(domain.to_json(info)))) == info


@given(
    st.builds(
        domain.AnalysisInfo,
        name=st.from_regex(domain.ANALYSIS_NAME, fullmatch=True),
        version=st.text(),
        title=st.text(),
        description=st.text(),
        params_schema=st.just({"type": "object"}),
        limits=st.builds(
            domain.AnalysisLimits,
            timeout_seconds=st.floats(0.1, 1e6),
            memory_bytes=st.none() | st.integers(1),
            max_result_bytes=st.integers(1),
            max_attempts=st.integers(1),
            retry_base_seconds=st.floats(0, 1e6),
            retry_cap_seconds=st.floats(0, 1e6),
        ),
        input=st.sampled_from(InputMode),
        isolation=st.sampled_from(Isolation),
        available=st.booleans(),
        unavailable_reason=st.none() | st.text(),
        source=st.text(),
        requires=st.lists(st.text()).map(tuple),
        executor=st.sampled_from(Executor),
        resources=st.dictionaries(
            st.sampled_from(["num_cpus", "num_gpus", "memory", "tpu"]), st.integers(1, 99)
        ),
        runs_on=st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from(["eu", "a.b-c_d"])),
    )
)
def test_any_description_round_trips(info: domain.AnalysisInfo) -> None:
    assert domain.from_json(domain.to_json(info)) == info


@pytest.mark.parametrize("field", ["name", "limits", "available", "params_schema"])
def test_a_description_with_a_missing_or_wrong_field_is_refused_by_name(field: str) -> None:
    document = domain.to_json(load(SELFTEST).info())

    with pytest.raises(ValueError, match=field):
        domain.from_json({name: value for name, value in document.items() if name != field})
    with pytest.raises(ValueError, match=field):
        domain.from_json({**document, field: 7})
