"""What is known of a cluster from telemetry, what is wrong with it, and what must hold before it is changed. Pure."""
