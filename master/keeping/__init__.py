"""What the master keeps for long: secrets, authorities, the chain of what was asked, and when it is forgotten."""
