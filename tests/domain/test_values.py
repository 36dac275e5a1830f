from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.duration import parse_duration, parse_ttl_seconds
from async_delivery.domain.errors import NotSerializableError, ResultExpiredError, ValidationError
from async_delivery.domain.failure import MESSAGE_LIMIT, failure, is_failure_code
from async_delivery.domain.instant import format_instant, parse_instant
from async_delivery.domain.job import JobId, ResultId
from async_delivery.domain.result import Result, ResultKind, View, parse_view, project, seal
from async_delivery.domain.retention import RetentionPolicy, SectionCount
from async_delivery.domain.retry import crash_delay_seconds, delay_seconds
from async_delivery.domain.tenant import OrgId, parse_org_id
from tests.domain.support import NOON


@pytest.mark.parametrize("text", ["a", "default-org", "A.b_c:d-9", "x" * 128])
def test_a_well_formed_tenant_is_taken_as_it_stands(text: str) -> None:
    assert parse_org_id(text) == text


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "ä", "a/b", "a\n", "a\x00", "\u043erg", "a,b", " a"])
def test_any_other_tenant_is_refused_naming_the_header(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_org_id(text, field="X-Tenant-Id")

    assert caught.value.details[0].field == "X-Tenant-Id"


def test_equal_values_have_equal_canonical_bytes_whatever_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": [True, None, "ä"]}) == canonical_json(
        {"a": (True, None, "ä"), "b": 1}
    )
    assert canonical_json({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}'.encode()


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(_json)
def test_canonical_bytes_read_back_as_the_value_and_seal_to_themselves(value: Any) -> None:
    try:
        data = canonical_json(value)
    except NotSerializableError:
        assert "\\ud" in json.dumps(value)
        return

    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


def _cycle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, float("nan")]}, "$.a[1]"),
        ({"a": float("inf")}, "$.a"),
        ({"a": {1: "x"}}, "$.a"),
        ({"a": {1, 2}}, "$.a"),
        ([b"x"], "$[0]"),
        ({"n": 2**64}, "$.n"),
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, "$.when"),
        ({"s": ["ok", "\ud800"]}, "$.s[1]"),
        ({"\udfff": 1}, "$"),
    ],
)
def test_what_json_cannot_say_is_refused_with_its_place(value: Any, path: str) -> None:
    with pytest.raises(NotSerializableError) as caught:
        canonical_json(value)

    assert caught.value.path.replace("'", "") == path


def test_a_cycle_is_refused_and_does_not_hang() -> None:
    with pytest.raises(NotSerializableError, match="cycle"):
        canonical_json(_cycle())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("604800", 604800),
        ("30m", 1800),
        ("24h", 86400),
        ("7d", 604800),
        ("2w", 1209600),
        (" 5 s ", 5),
    ],
)
def test_ttls_are_seconds_or_a_number_with_a_unit(text: str, seconds: int) -> None:
    assert parse_ttl_seconds(text) == seconds


@pytest.mark.parametrize("text", ["-1", "", "7 days", "1e3", "nan", "inf", "1.5", "9" * 13, "7D", "٣"])
def test_other_ttls_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a|longer"):
        parse_ttl_seconds(text)


def test_durations_may_have_fractions() -> None:
    assert parse_duration("0.5h") == 1800.0


def test_instants_are_rfc_3339_in_utc_with_milliseconds() -> None:
    assert format_instant(datetime(2026, 3, 1, 13, 0, 0, 123456, tzinfo=UTC)) == "2026-03-01T13:00:00.123Z"
    assert parse_instant("2026-03-01T14:00:00+02:00") == NOON


@pytest.mark.parametrize("text", ["", "2026-03-01", "2026-03-01T12:00:00", "yesterday", "20260301T120000Zx"])
def test_an_instant_without_a_zone_or_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_instant(text)


@given(st.integers(1, 5000), st.floats(0, 0.999))
def test_backoff_stays_between_zero_and_its_cap(attempt: int, jitter: float) -> None:
    assert 0.0 <= delay_seconds(attempt, jitter, base=2.0, cap=60.0) <= 60.0


def test_backoff_doubles_and_the_first_crash_waits_for_nothing() -> None:
    assert [delay_seconds(n, 1.0) for n in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert crash_delay_seconds(1, 0.9) == 0.0
    assert crash_delay_seconds(2, 1.0) == 2.0
    with pytest.raises(ValueError, match="attempt"):
        delay_seconds(0, 0.5)


def test_failure_messages_are_cut_and_codes_are_plain_words() -> None:
    assert len(failure("x", "m" * 9999).message) == MESSAGE_LIMIT
    assert is_failure_code("no_data_2")
    assert not any(map(is_failure_code, ["", "No", "a b", "é", "x" * 65]))


def _result(kind: ResultKind, seq: int, **changes: Any) -> Result:
    body = seal({"seq": seq})
    values: dict[str, Any] = {
        "result_id": ResultId(f"r-{seq}"),
        "org_id": OrgId("alpha"),
        "job_id": JobId("job-1"),
        "result_kind": kind,
        "result_seq": seq,
        "attempt": 1,
        "created_at": NOON,
        "expires_at": NOON + timedelta(hours=1),
        "size_bytes": len(body.data),
        "sha256": body.sha256,
        "deleted_at": None,
    }
    return Result(**{**values, **changes})


PARTIAL = _result(ResultKind.PARTIAL, 1)
FINAL = _result(ResultKind.FINAL, 2)


def test_latest_is_the_final_result_and_requested_is_the_snapshot_itself() -> None:
    latest = project(PARTIAL, lambda: FINAL, True, View.LATEST, NOON)
    requested = project(PARTIAL, lambda: FINAL, True, View.REQUESTED, NOON)

    assert (latest.resolved, latest.requested) == (FINAL, PARTIAL)
    assert requested.resolved is PARTIAL


def test_expiry_is_a_rule_of_reading_and_begins_at_expires_at() -> None:
    just_before = FINAL.expires_at - timedelta(microseconds=1)
    assert project(FINAL, lambda: FINAL, True, View.LATEST, just_before).resolved is FINAL

    with pytest.raises(ResultExpiredError) as caught:
        project(FINAL, lambda: FINAL, True, View.LATEST, FINAL.expires_at)
    assert caught.value.expired_at == FINAL.expires_at


def test_the_partials_of_a_running_job_do_not_expire() -> None:
    long_after = NOON + timedelta(days=30)

    assert project(PARTIAL, lambda: PARTIAL, False, View.REQUESTED, long_after).resolved is PARTIAL


def test_a_purged_partial_still_leads_to_the_final_result_under_latest_only() -> None:
    purged = _result(ResultKind.PARTIAL, 1, deleted_at=NOON)

    assert project(purged, lambda: FINAL, True, View.LATEST, NOON).resolved is FINAL
    with pytest.raises(ResultExpiredError):
        project(purged, lambda: FINAL, True, View.REQUESTED, NOON)


def test_a_view_is_latest_or_requested() -> None:
    assert [parse_view(None), parse_view("latest"), parse_view("requested")] == [
        View.LATEST,
        View.LATEST,
        View.REQUESTED,
    ]
    for text in ("", "LATEST", "newest"):
        with pytest.raises(ValidationError):
            parse_view(text)


@pytest.mark.parametrize("seconds", [-1, True, 1.5, "7", 10**12])
def test_a_retention_policy_refuses_what_is_no_ttl_naming_the_field(seconds: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        RetentionPolicy(results_ttl_seconds=0, events_ttl_seconds=seconds)

    assert caught.value.details[0].field == "events_ttl_seconds"


def test_jobs_are_kept_for_ever_only_where_that_is_said() -> None:
    assert RetentionPolicy().jobs_ttl_seconds == 90 * 86_400
    assert RetentionPolicy(jobs_ttl_seconds=None).jobs_cutoff(NOON) is None
    assert RetentionPolicy(jobs_ttl_seconds=0).jobs_cutoff(NOON) == NOON
    with pytest.raises(ValidationError) as caught:
        RetentionPolicy(jobs_ttl_seconds=-1)
    assert caught.value.details[0].field == "jobs_ttl_seconds"


def test_a_section_counts_every_row_as_deleted_or_kept() -> None:
    section = SectionCount(total=10, eligible_terminal=8, delete_count=5).to_json(NOON)

    assert section["delete_count"] + section["kept_count"] == section["total"]
    assert section["cutoff"] == "2026-03-01T12:00:00.000Z"
