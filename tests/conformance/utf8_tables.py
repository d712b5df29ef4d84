"""Octet sequences for section 6, and a judge of them that knows only table 3-7 of the Unicode
standard, "Well-Formed UTF-8 Byte Sequences".

The groups follow Markus Kuhn's UTF-8 stress test. Each entry says what it is and has its octets in
hexadecimal.
"""

from __future__ import annotations

#: table 3-7: first octets, then the range of each octet that has to follow
WELL_FORMED: list[tuple[range, list[range]]] = [
    (range(0x80), []),
    (range(0xC2, 0xE0), [range(0x80, 0xC0)]),
    (range(0xE0, 0xE1), [range(0xA0, 0xC0), range(0x80, 0xC0)]),
    (range(0xE1, 0xED), [range(0x80, 0xC0)] * 2),
    (range(0xED, 0xEE), [range(0x80, 0xA0), range(0x80, 0xC0)]),
    (range(0xEE, 0xF0), [range(0x80, 0xC0)] * 2),
    (range(0xF0, 0xF1), [range(0x90, 0xC0), *[range(0x80, 0xC0)] * 2]),
    (range(0xF1, 0xF4), [range(0x80, 0xC0)] * 3),
    (range(0xF4, 0xF5), [range(0x80, 0x90), *[range(0x80, 0xC0)] * 2]),
]


def judge(data: bytes) -> tuple[int | None, bool]:
    """Return (the index of the first octet that no valid text can have there, or None; whether
    *data* ends on a whole character).
    """
    expected: list[range] = []
    for at, octet in enumerate(data):
        if expected:
            if octet not in expected.pop(0):
                return at, False
            continue
        for first, following in WELL_FORMED:
            if octet in first:
                expected = list(following)
                break
        else:
            return at, False
    return None, not expected


def _table(entries: dict[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(octets) for name, octets in entries.items()}


#: section 6.5 and on: well-formed
VALID = _table(
    {
        "6.5.1 greek": "cebae1bdb9cf83cebcceb5",
        "6.5.2 german": "48656c6c6f2dc2b54040c39fc3b6c3a4",
        "6.5.3 cjk": "e697a5e69cace8aa9e",
        "6.5.4 emoji with joiner": "f09f91a9e2808df09f92bb",
        "6.5.5 nul": "610062",
        "6.5.6 byte order mark": "efbbbf61",
        "6.5.7 two byte order marks": "efbbbfefbbbf",
        "6.5.8 combining": "65cc81",
        "6.7.1 first of 1 octet": "00",
        "6.7.2 first of 2 octets": "c280",
        "6.7.3 first of 3 octets": "e0a080",
        "6.7.4 first of 4 octets": "f0908080",
        "6.9.1 last of 1 octet": "7f",
        "6.9.2 last of 2 octets": "dfbf",
        "6.9.3 last of 3 octets": "efbfbf",
        "6.9.4 last of 4 octets": "f48fbfbf",
        "6.11.1 before the surrogates": "ed9fbf",
        "6.11.2 behind the surrogates": "ee8080",
        "6.11.3 replacement character": "efbfbd",
        "6.11.4 byte order mark swapped": "efbfbe",
        "6.11.5 end of plane 1": "f09fbfbf",
        "6.11.6 private use": "f3b08080",
    }
)
#: section 6.22: code points that are no characters, and well-formed all the same
NONCHARACTERS = [
    *range(0xFDD0, 0xFDF0),
    *[plane << 16 | low for plane in range(17) for low in (0xFFFE, 0xFFFF)],
]

#: sections 6.3 and 6.6 and on: not well-formed, wherever the message ends
INVALID = _table(
    {
        "6.3.1 surrogate in text": "cebae1bdb9cf83cebcceb5eda080656469746564",
        "6.4.1 above 10FFFF in text": "cebae1bdb9cf83cebcceb5f4908080656469746564",
        "6.8.1 first of 5 octets": "f888808080",
        "6.8.2 first of 6 octets": "fc8480808080",
        "6.10.1 last of 4 octets, old": "f7bfbfbf",
        "6.10.2 last of 5 octets": "fbbfbfbfbf",
        "6.10.3 last of 6 octets": "fdbfbfbfbfbf",
        "6.12.1 first continuation": "80",
        "6.12.2 last continuation": "bf",
        "6.12.3 two continuations": "80bf",
        "6.12.4 three continuations": "80bf80",
        "6.12.5 continuation behind a character": "c280bf",
        "6.12.6 all continuations": bytes(range(0x80, 0xC0)).hex(),
        "6.13.1 two first of 2": "c0c1",
        "6.13.2 first of 2, space": "c320",
        "6.13.3 first of 3, space": "e220",
        "6.13.4 first of 4, space": "f020",
        "6.13.5 first of 5, space": "f820",
        "6.13.6 first of 6, space": "fc20",
        "6.14.1 2 octets, 1 missing": "c341",
        "6.14.2 3 octets, 1 missing": "e08041",
        "6.14.3 3 octets, 1 missing, valid start": "e2824120",
        "6.14.4 4 octets, 1 missing": "f0908041",
        "6.14.5 4 octets, 2 missing": "f09041",
        "6.15.1 cut characters in a row": "c3e282f09f98",
        "6.16.1 octet FE": "fe",
        "6.16.2 octet FF": "ff",
        "6.16.3 octets FE FE FF FF": "fefeffff",
        "6.16.4 octet C0": "c0",
        "6.16.5 octet C1": "c1",
        "6.16.6 octet F5": "f5",
        "6.16.7 utf-16": "fffe41004200",
        "6.16.8 latin-1": "63616666e9212121",
        "6.17.1 overlong / of 2": "c0af",
        "6.17.2 overlong / of 3": "e080af",
        "6.17.3 overlong / of 4": "f08080af",
        "6.17.4 overlong / of 5": "f8808080af",
        "6.17.5 overlong / of 6": "fc80808080af",
        "6.18.1 greatest overlong of 2": "c1bf",
        "6.18.2 greatest overlong of 3": "e09fbf",
        "6.18.3 greatest overlong of 4": "f08fbfbf",
        "6.18.4 greatest overlong of 5": "f887bfbfbf",
        "6.18.5 greatest overlong of 6": "fc83bfbfbfbf",
        "6.19.1 overlong nul of 2": "c080",
        "6.19.2 overlong nul of 3": "e08080",
        "6.19.3 overlong nul of 4": "f0808080",
        "6.19.4 overlong nul of 5": "f880808080",
        "6.19.5 overlong nul of 6": "fc8080808080",
        "6.20.1 surrogate D800": "eda080",
        "6.20.2 surrogate DB7F": "edadbf",
        "6.20.3 surrogate DB80": "edae80",
        "6.20.4 surrogate DBFF": "edafbf",
        "6.20.5 surrogate DC00": "edb080",
        "6.20.6 surrogate DF80": "edbe80",
        "6.20.7 surrogate DFFF": "edbfbf",
        "6.21.1 surrogates D800 DC00": "eda080edb080",
        "6.21.2 surrogates DBFF DFFF": "edafbfedbfbf",
        "6.21.3 10FFFF and one more": "f48fbfbff4908080",
        "6.21.4 octets F4 BF": "f4bfbfbf",
    }
)

#: section 6.23: the start of a character that the end of the message cuts
TRUNCATED = _table(
    {
        "6.23.1 first of 2": "c3",
        "6.23.2 first of 3": "e2",
        "6.23.3 first two of 3": "e282",
        "6.23.4 first of 4": "f0",
        "6.23.5 first two of 4": "f09f",
        "6.23.6 first three of 4": "f09f98",
        "6.23.7 last that begins with ED": "ed9f",
        "6.23.8 last that begins with F4": "f48fbf",
        "6.23.9 behind text": "48656c6c6fe282",
    }
)
