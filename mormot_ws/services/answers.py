"""Results with which a service controls the whole answer or its HTTP status.

Values only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ServiceCustomAnswer:
    """An answer whose content is sent unchanged.

    For methods annotated to return it. The caller gets it as the result with any status, never as
    an error. Mirrors ``TServiceCustomAnswer``.
    """

    #: the body; a ``str`` is sent as UTF-8 and arrives as bytes
    content: bytes | str = b""
    #: the content type; '' means JSON
    content_type: str = ""
    status: int = 200
    #: further header lines as ``Name: value``, joined by CRLF
    header: str = ""


class ServiceCustomStatus(int):
    """A result that also becomes the HTTP status of the answer. Mirrors ``TServiceCustomStatus``.

    For methods annotated to return it, with a number like 201 or 403. The caller gets any such
    number as the result, never as an error.
    """

    __slots__ = ()
