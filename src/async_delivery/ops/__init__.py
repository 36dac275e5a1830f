"""Operation: what looks at the service and says how it is. It only looks; what it finds, others act on."""
