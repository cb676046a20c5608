"""Routing: RFC 8966 (Babel) over link frames. Pure; ``router`` joins one module for each noun of the RFC."""
