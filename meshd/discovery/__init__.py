"""How devices find each other: multicast DNS, configured places, and the state of the network."""
