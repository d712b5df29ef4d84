"""Contracts: the text and the number with which native code compares interfaces.

Pure functions: an interface in, strings out.
"""

from __future__ import annotations

import json
import types
import typing
import zlib
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from struct import unpack
from typing import Any
from uuid import UUID

from ..states import ServiceInstanceImplementation
from .answers import ServiceCustomAnswer, ServiceCustomStatus
from .interface import ServiceInterface, ServiceMethod, interface_of

#: the contract that every native client accepts
ANY_CONTRACT = "*"
_TYPES: dict[Any, str] = {
    bool: "boolean",
    int: "int64",
    float: "double",
    str: "utf8",
    bytes: "utf8",
    datetime: "datetime",
    date: "datetime",
    Decimal: "currency",
    dict: "variant",
    Mapping: "variant",
    Any: "variant",
    object: "variant",
    UUID: "TGuid",
    ServiceCustomStatus: "cardinal",
    ServiceCustomAnswer: "TServiceCustomAnswer",
}


def contract_of(interface: ServiceInterface, kind: ServiceInstanceImplementation) -> str:
    """Return the 16 hexadecimal digits that native code computes for *interface*.

    Raises the same exceptions as :func:`signature_text`.
    """
    text = signature_text(interface, kind).encode("utf-8")
    return f"{hash32(text):08X}{zlib.crc32(text):08X}"


def signature_text(interface: ServiceInterface, kind: ServiceInstanceImplementation) -> str:
    """Return the description of *interface* from which its contract is computed.

    ``int`` is an Int64, ``Annotated[int, "integer"]`` an Integer; other Pascal types are named in
    the same way. Raises ``ValueError`` for a method that returns several values, because nothing
    says which of them are ``var`` in Pascal.
    """
    described = {
        "contract": interface.wire_name,
        "implementation": kind.name.removeprefix("sic").lower(),
        "methods": [_described(method) for method in interface.methods],
    }
    return json.dumps(described, separators=(",", ":"), ensure_ascii=False)


def _described(method: ServiceMethod) -> dict[str, Any]:
    arguments = [_argument("Self", "in", "self")]
    for at, parameter in enumerate(method.signature.parameters.values()):
        interface = method.parameters.callbacks.get(at)
        name = interface_of(interface).pascal_name if interface is not None else ""
        arguments.append(_argument(parameter.name, "in", name or _type_name(parameter.annotation)))
    if method.returns_tuple:
        raise ValueError(
            f"{method.title} returns several values, of which some may be var and some out: pass"
            " the contract from Pascal"
        )
    if method.waits:
        arguments.append(_argument("Result", "out", _type_name(method.signature.return_annotation)))
    return {"method": method.wire_name.partition(".")[2], "arguments": arguments}


def _argument(name: str, direction: str, kind: str) -> dict[str, str]:
    return {"argument": name, "direction": direction, "type": kind}


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        names = [note for note in annotation.__metadata__ if isinstance(note, str)]
        return names[0] if names else _type_name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return _type_name(kinds[0]) if len(kinds) == 1 else "variant"
    kind = typing.get_origin(annotation) or annotation
    return _TYPES.get(kind) or str(getattr(kind, "__name__", "variant"))


def hash32(data: bytes) -> int:
    """Return the first half of a contract, 0 to 2³²−1."""
    whole = len(data) // 4 * 4
    first = second = 0
    for word in unpack(f"<{whole // 4}I", data[:whole]):
        first += word
        second += first
    first += int.from_bytes(data[whole:], "little")
    second += first
    return (first ^ second << 16) & 0xFFFFFFFF
