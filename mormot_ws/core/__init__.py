"""The protocol of RFC 6455 as values and bytes: no socket, no clock and no thread of its own may
come in here.
"""
