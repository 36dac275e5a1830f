"""Other systems for the same work, each in an environment of its own, measured in turn with the service."""
