"""One plan or one apply of a cluster, from what must be right before to the proof that it is healthy."""
