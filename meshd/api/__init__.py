"""The local API: how apps on this device talk to the daemon (``docs/protocol-api.md``)."""
