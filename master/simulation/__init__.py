"""A cluster of made-up nodes under the real code, for tests, and to check documents without a node."""
