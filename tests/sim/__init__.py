"""Many real nodes in one process, on virtual time: everything but sockets and the disk's thread."""
