"""Triage: look at everything that an incident can come from, settle what it is, and say what to do next.

Nothing is changed. ``server`` asks over HTTP, ``store`` looks at store file and database, ``compare`` at the artefacts,
``incident`` writes what was found to a folder of its own. Decisions are in ``domain.triage``.
"""

from async_delivery.ops.triage.examine import Case, TriageReport, examine
from async_delivery.ops.triage.incident import IncidentExistsError, incident_folder, write_incident

__all__ = ["Case", "IncidentExistsError", "TriageReport", "examine", "incident_folder", "write_incident"]
