"""Ad-hoc commands: what `pgha-master run` does to the nodes a person means, and what keeps it from doing harm."""
