"""Transports: whole frames over QUIC, WebSocket, or memory. They know nothing of meshes."""
