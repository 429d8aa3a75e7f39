"""What all that changes a cluster is made of: orders to nodes, the order of changes, gates that are waited for."""
