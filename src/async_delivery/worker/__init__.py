"""Workers: analyses run in child processes, under supervision. Imports engine, plugins, telemetry and domain."""
