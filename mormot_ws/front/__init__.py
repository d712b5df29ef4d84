"""The front door: ``connect()`` and ``Server``, with a Pythonic interface.

The underlying classes do the work; missing features are added there, not here. The client's and the
server's side are independent of each other. Times are in seconds, as in ``threading`` and
``socket``.
"""
