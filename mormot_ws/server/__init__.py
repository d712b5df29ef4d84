"""Servers: their common base, and the server that gives each connection a thread."""
