"""What a person asked for while it runs: the lines they see of it, kept so that anybody can follow."""
