"""Answers that a service makes itself: as they are, or with a status of its own.

Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ServiceCustomAnswer:
    """An answer that is sent as it is, with nothing around its content.

    A method that is annotated to return it gives it; where it is called, any status is a result and
    not an error. Mirrors ``TServiceCustomAnswer``.
    """

    #: the body; a ``str`` is sent as UTF-8, and always arrives as bytes
    content: bytes | str = b""
    #: '' counts as JSON
    content_type: str = ""
    status: int = 200
    #: further header lines as ``Name: value``, joined by CRLF
    header: str = ""


class ServiceCustomStatus(int):
    """A result that is the answer's HTTP status too. Mirrors ``TServiceCustomStatus``.

    A method that is annotated to return it gives a number like 201 or 403; where it is called, that
    is its result whatever it is, and not an error.
    """

    __slots__ = ()
