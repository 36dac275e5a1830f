"""Settings: where they come from, and what is said when they are wrong."""

from dataclasses import fields
from pathlib import Path

import pytest

from async_delivery.settings import DEFAULTS, SETTINGS, Settings, SettingsError, load


def faults(**asked: object) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load(**asked)  # type: ignore[arg-type]
    return refused.value.faults


def test_without_any_source_everything_has_its_default(tmp_path: Path) -> None:
    loaded = load({}, {}, cwd=tmp_path)

    assert loaded.settings == Settings()
    assert loaded.config_file is None
    assert loaded.warnings == ()


def test_the_table_names_every_setting_once() -> None:
    assert sorted(setting.name for setting in SETTINGS) == sorted(field.name for field in fields(Settings))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_default_is_one_that_a_person_could_have_given(setting: object) -> None:
    from async_delivery.settings import Setting

    assert isinstance(setting, Setting)
    default = getattr(DEFAULTS, setting.name)
    if default is not None and not setting.repeatable:
        assert setting.parse(setting.default_text if setting.name != "slots" else str(default)) == default
    else:
        assert setting.unset


def test_a_flag_goes_over_a_variable_and_a_variable_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "async-delivery.toml").write_text("port = 1001\nslots = 1\nlease_seconds = 60\n")

    loaded = load(
        {"port": "1003"}, {"ASYNC_DELIVERY_PORT": "1002", "ASYNC_DELIVERY_SLOTS": "2"}, cwd=tmp_path
    )

    assert (loaded.settings.port, loaded.settings.slots, loaded.settings.lease_seconds) == (1003, 2, 60)
    assert loaded.config_file == tmp_path / "async-delivery.toml"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("604800", 604_800), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800), ("0", 0), ("2w", 1_209_600)],
)
def test_durations_are_seconds_or_a_number_with_a_unit(text: str, seconds: int) -> None:
    assert load({"results_ttl_seconds": text}, {}).settings.results_ttl_seconds == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 7_776_000), ("0", 0), ("36h", 129_600), ("off", None), (" OFF ", None)]
)
def test_jobs_are_kept_for_a_time_or_for_ever(text: str, seconds: int | None) -> None:
    assert load({"jobs_ttl_seconds": text}, {}).settings.jobs_ttl_seconds == seconds
    assert load({}, {"ASYNC_DELIVERY_JOBS_TTL_SECONDS": text}).settings.jobs_ttl_seconds == seconds


def test_every_form_can_be_written_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text(
        'host = "localhost"\nanalysis = ["a.b:c", "d:e"]\nno_workers = true\nresults_ttl_seconds = "7d"\n'
        'lease_seconds = 45.5\nmax_upload_bytes = "2 GiB"\ntrusted_proxy = ["10.0.0.0/8"]\n'
        'requests_per_second = 0.5\nlog_level = "DEBUG"\n'
    )

    settings = load({}, {}, config_file=str(file)).settings

    assert settings.analysis == ("a.b:c", "d:e")
    assert settings.no_workers is True
    assert settings.results_ttl_seconds == 604_800
    assert settings.lease_seconds == 45.5
    assert settings.max_upload_bytes == 2 * 2**30
    assert settings.trusted_proxy == ("10.0.0.0/8",)
    assert settings.requests_per_second == 0.5
    assert settings.log_level == "debug"


def test_paths_in_the_file_are_seen_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text('store_file = "here/store.json"\ndata_root = "/data"\n')

    settings = load({"work_dir": "there"}, {}, config_file=str(file)).settings

    assert settings.store_file == tmp_path / "here/store.json"
    assert settings.data_root == Path("/data")
    assert settings.work_dir == Path("there")


def test_repeatable_settings_come_as_several_flags_or_with_commas() -> None:
    flags = load({"keep_env": ("HOME", "LANG")}, {}).settings
    variable = load({}, {"ASYNC_DELIVERY_KEEP_ENV": "HOME, LANG"}).settings

    assert flags.keep_env == variable.keep_env == ("HOME", "LANG")


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("off", False), ("false", False)])
def test_a_switch_in_the_environment_says_true_or_false(text: str, value: bool) -> None:
    assert load({}, {"ASYNC_DELIVERY_NO_WORKERS": text}).settings.no_workers is value


def test_an_empty_variable_is_none() -> None:
    assert load({}, {"ASYNC_DELIVERY_PORT": "", "ASYNC_DELIVERY_STORE_URL": ""}).settings == Settings()


def test_every_fault_is_named_with_its_source_and_what_would_be_right(tmp_path: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text('lease_seconds = "soon"\nslotz = 3\n')

    said = faults(
        flags={"port": "eighty"}, environ={"ASYNC_DELIVERY_TRUSTED_PROXY": "x"}, config_file=str(file)
    )

    assert len(said) == 4
    assert said[0].startswith(f"lease_seconds in {file}: 'soon' is not a duration")
    assert said[1] == f"slotz in {file}: there is no such setting (did you mean slots?)"
    assert said[2].startswith("ASYNC_DELIVERY_TRUSTED_PROXY: 'x' is not an address or network")
    assert said[3] == "--port: 'eighty' is not a whole number from 0 to 65535"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"results_ttl_seconds": "-1"}, "--results-ttl-seconds: '-1' is not a duration"),
        ({"jobs_ttl_seconds": "never"}, "--jobs-ttl-seconds: 'never' is not a duration"),
        ({"results_ttl_seconds": "1.5"}, "not a whole number of seconds"),
        ({"slots": "0"}, "'0' is not a whole number from 1"),
        ({"host": "a b"}, "not a host name"),
        ({"host": ""}, "not a host name"),
        ({"analysis": ("profile",)}, "not of the form module:function"),
        ({"default_analysis": "Profile!"}, "not the name of an analysis"),
        ({"max_body_bytes": "1 MB"}, "give bytes, or a number with KiB, MiB or GiB"),
        ({"max_wait_seconds": "61"}, "between 0 and 60"),
        ({"keep_env": ("A=B",)}, "not the name of an environment variable"),
        ({"log_level": "loud"}, "not one of debug, info, warning, error"),
        ({"requests_per_second": "nan"}, "not a number from"),
        ({"store_file": ""}, "must be the path"),
    ],
)
def test_a_value_of_the_wrong_form_is_refused(flags: dict[str, object], part: str) -> None:
    (said,) = faults(flags=flags, environ={})

    assert part in said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("port = true", "port"),
        ('no_workers = "yes"', "must be true or false"),
        ('analysis = "a:b"', "must be a list of strings"),
        ("host = 3", "must be a string"),
        ("[serve]\nport = 1", "serve in"),
        ("port = = 1", "cannot be read as TOML"),
    ],
)
def test_a_file_with_a_value_of_the_wrong_type_is_refused(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "it.toml"
    file.write_text(text)

    (said,) = faults(flags={}, environ={}, config_file=str(file))

    assert part in said
    assert str(file) in said


def test_a_lease_shorter_than_three_heartbeats_is_refused() -> None:
    (said,) = faults(flags={"lease_seconds": "29", "heartbeat_seconds": "10"}, environ={})

    assert said == "lease_seconds (29) must be at least three times heartbeat_seconds (10)"


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.toml")

    assert faults(flags={}, environ={}, config_file=missing) == [f"--config: there is no file {missing}"]
    assert faults(flags={}, environ={"ASYNC_DELIVERY_CONFIG": missing}) == [
        f"ASYNC_DELIVERY_CONFIG: there is no file {missing}"
    ]


def test_a_variable_that_is_no_setting_is_told_and_ignored() -> None:
    known = {"ASYNC_DELIVERY_BASE_URL": "http://x", "ASYNC_DELIVERY_ORG": "a", "PORT": "1"}

    loaded = load({}, {"ASYNC_DELIVERY_PROT": "1", **known})

    assert loaded.warnings == (
        "ASYNC_DELIVERY_PROT: there is no such setting (did you mean ASYNC_DELIVERY_PORT?); it is ignored",
    )


@pytest.mark.parametrize("text", ["auto", "10.0.0.7:6379", "head.example:6379", "[::1]:6379"])
def test_a_ray_cluster_is_named_by_its_address(text: str) -> None:
    assert load({"ray_address": text}, {}).settings.ray_address == text


@pytest.mark.parametrize("text", ["ray://head:10001", "local", "head", "http://head:8265"])
def test_a_ray_cluster_that_is_not_reached_as_a_node_is_refused(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({"ray_address": text}, {})

    assert "neither auto nor HOST:PORT" in refused.value.faults[0]
