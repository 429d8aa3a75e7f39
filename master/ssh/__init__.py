"""Putting pgha on a host that has none yet, over SSH."""
