"""What each line under "Erwartung" and "Expected" of the runbook means: the line in both languages, and its check.

PARTS has the lists of the pages in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.docs.runbook import Operator
from tests.docs.runbook_checks import (
    access_log_gives_its_signals,
    another_tenant_gets_404_and_learns_nothing,
    bundle_keeps_secrets,
    dry_run_artefact_has_its_counts,
    dry_run_changes_nothing,
    every_signal_is_told,
    every_terminal_job_has_its_notification,
    exits_as_said,
    good_artefacts_are_attached,
    incident_is_reported,
    nothing_after_the_dry_run_is_carried_out,
    notifications_come_latest_first,
    only_ended_jobs_are_touched,
    permalink_has_its_fields,
    permalink_is_200,
    prod_is_green,
    prod_smoke_reads_only,
    script_is_refused_over_restarts,
    script_runs_again,
    second_run_deletes_nothing,
    staging_is_green,
    status_agrees_with_its_result,
    store_is_sound,
    triage_finds_nothing,
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """One line of a list."""

    de: str
    en: str
    check: Callable[[Operator], None]


PARTS: tuple[tuple[Expectation, ...], ...] = (
    (
        Expectation("HTTP `200`", "HTTP `200`", permalink_is_200),
        Expectation(
            "Response enthält `result_id`, `requested_result_id`, `projection_mode`",
            "the response contains `result_id`, `requested_result_id`, `projection_mode`",
            permalink_has_its_fields,
        ),
        Expectation(
            "bei Tenant-Mismatch bewusst `404` (kein Daten-Leak)",
            "for another tenant deliberately `404` (no data leak)",
            another_tenant_gets_404_and_learns_nothing,
        ),
    ),
    (
        Expectation(
            "Status-Endpunkt liefert konsistente `status`-/`result_id`-Information",
            "the status endpoint gives consistent `status`/`result_id` information",
            status_agrees_with_its_result,
        ),
        Expectation(
            "Notification-Endpunkt liefert `notifications` latest-first",
            "the notification endpoint gives `notifications`, latest first",
            notifications_come_latest_first,
        ),
        Expectation(
            "für terminale Jobs (`completed|failed|canceled`) mindestens ein Notification-Event vorhanden",
            "for terminal jobs (`completed|failed|canceled`) there is at least one notification event",
            every_terminal_job_has_its_notification,
        ),
    ),
    (
        Expectation("Script-Exit `0`", "script exit `0`", exits_as_said),
        Expectation(
            "JSON-Artefakt enthält `terminal_job_count`, `results.delete_count`, `events.delete_count`",
            "the JSON artefact contains `terminal_job_count`, `results.delete_count`, `events.delete_count`",
            dry_run_artefact_has_its_counts,
        ),
        Expectation(
            "keine Store-Mutation im Dry-Run",
            "the dry run does not change the store",
            dry_run_changes_nothing,
        ),
    ),
    (
        Expectation("Script-Exit `0`", "script exit `0`", exits_as_said),
        Expectation(
            "Retention greift ausschließlich für terminale Jobs (`completed|failed|canceled`)",
            "retention touches terminal jobs only (`completed|failed|canceled`)",
            only_ended_jobs_are_touched,
        ),
        Expectation(
            "wiederholte Ausführung ist idempotent"
            " (zweiter Lauf: `delete_count` typischerweise `0` ohne neue Altdaten)",
            "running it again is idempotent"
            " (second run: `delete_count` typically `0` unless data have become old meanwhile)",
            second_run_deletes_nothing,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "jedes Signal der Tabelle steht mit seiner Stufe in der Ausgabe",
            "every signal of the table is in the output with its level",
            every_signal_is_told,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "`async_result_permalink_http_5xx_rate_5m` und `async_result_permalink_p95_ms_15m`"
            " stehen mit Wert in der Ausgabe",
            "`async_result_permalink_http_5xx_rate_5m` and `async_result_permalink_p95_ms_15m`"
            " are in the output with a value",
            access_log_gives_its_signals,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "jeder Check der Liste ist `ok`, in der Ausgabe und im Artefakt `artifacts/async/smoke-staging-*.json`",
            "every check of the list is `ok`, in the output and in the artefact `artifacts/async/smoke-staging-*.json`",
            staging_is_green,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "alles vor `maintenance_window` ist `ok`, der Rest `skipped`",
            "all before `maintenance_window` is `ok`, the rest `skipped`",
            nothing_after_the_dry_run_is_carried_out,
        ),
        Expectation(
            "keine Mutation der Jobs, Results, Events und Notifications",
            "jobs, results, events and notifications do not change",
            prod_smoke_reads_only,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "jeder Check der Liste ist `ok`, in der Ausgabe und im Artefakt `artifacts/async/smoke-prod-*.json`",
            "every check of the list is `ok`, in the output and in the artefact `artifacts/async/smoke-prod-*.json`",
            prod_is_green,
        ),
    ),
    (
        Expectation(
            "Exit `1`, denn die Pause ist selbst ein Befund",
            "exit `1`, as the pause itself is a finding",
            exits_as_said,
        ),
        Expectation(
            "`artifacts/async/incident-INC-1/report.md` nennt Fehlerklasse und Next Step",
            "`artifacts/async/incident-INC-1/report.md` names error class and next step",
            incident_is_reported,
        ),
        Expectation(
            "die letzten erfolgreichen Artefakte liegen daneben",
            "the last good artefacts are beside it",
            good_artefacts_are_attached,
        ),
        Expectation(
            "das Cleanup-Script endet mit Exit-Code `3` und löscht nichts, auch nach einem Neustart des Servers",
            "the cleanup script ends with exit code `3` and deletes nothing, also after a restart of the server",
            script_is_refused_over_restarts,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "das Cleanup-Script endet wieder mit Exit-Code `0`",
            "the cleanup script ends with exit code `0` again",
            script_runs_again,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "Ausgabe beginnt mit der Fehlerklasse `none` und endet mit dem Next Step",
            "the output begins with the error class `none` and ends with the next step",
            triage_finds_nothing,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "Ausgabe endet mit `every invariant holds`",
            "the output ends with `every invariant holds`",
            store_is_sound,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "`artifacts/async/doctor-*.tar.gz` nennt weder den Tenant noch Inhalte von Results",
            "`artifacts/async/doctor-*.tar.gz` names neither the tenant nor contents of results",
            bundle_keeps_secrets,
        ),
    ),
)
