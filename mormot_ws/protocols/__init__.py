"""Protocols: base classes for the protocols of applications, and the list that a server offers."""
