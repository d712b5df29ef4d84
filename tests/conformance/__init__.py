"""Own conformance suite for RFC 6455 and RFC 7692, for the server and the client alike; see
README.md.
"""
