"""meshd-relay: one identity, a node for each mesh that it serves, and a listener that tells them apart."""
