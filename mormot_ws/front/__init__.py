"""The front door: ``connect()`` and ``Server``, in Python's words.

The classes underneath do the work; what they lack is built there, not here. The client's and the
server's side do not know each other. Times are in seconds, as in ``threading`` and ``socket``.
"""
