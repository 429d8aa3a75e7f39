"""Which nodes a person means: names, facts and telemetry in one expression."""
