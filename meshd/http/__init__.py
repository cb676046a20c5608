"""The HTTP gateway: the local API for whatever speaks HTTP and JSON (``docs/http.md``). Imported only when enabled."""
