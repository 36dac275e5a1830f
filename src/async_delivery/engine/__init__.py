"""Use cases. Each opens one transaction, asks the domain, saves the Change, and tells telemetry after the commit."""
