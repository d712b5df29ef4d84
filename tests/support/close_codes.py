"""The codes that may stand in a close frame."""

#: all below 3000 that RFC 6455 §7.4.1 and the IANA registry allow on the wire; above: the borders
#: of the free ranges
CLOSE_CODES = [
    1000,
    1001,
    1002,
    1003,
    1007,
    1008,
    1009,
    1010,
    1011,
    1012,
    1013,
    1014,
    3000,
    3999,
    4000,
    4999,
]
