"""Clients: the connection that reconnects, its thread, and its upgrade."""
