"""A cluster's definition: the file a person writes, read, checked and completed with what it refers to."""
