"""Backups, drills and restores as the master orders them, and asks the nodes for. The nodes do the work."""
