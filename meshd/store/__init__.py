"""The store: one SQLite file, one connection, one thread. Blocking inside, events outside."""
