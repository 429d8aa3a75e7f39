"""State documents of the user's own, in YAML and in Python: found, checked, chosen for nodes."""
