"""Protocols: the base classes of applications' protocols, and the list that a server offers."""
