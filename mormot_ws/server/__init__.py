"""Servers: what any server of connections is, and the one that gives each connection a thread."""
