"""How a server's clients authenticate: the schemes of native servers, and the users they know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from ..attributes import KnownAttributes
from ..callbacks import check_callback
from .authentication import hashed_password


@dataclass(frozen=True)
class AuthUser:
    """A user who may have sessions. Mirrors ``TAuthUser``."""

    #: the name, in its exact form; mirrors ``LogonName``
    logon_name: str
    #: what is kept of the password, see :meth:`with_password`; mirrors ``PasswordHashHexa``
    password_hash_hexa: str = field(default="", repr=False)
    #: a name for people; mirrors ``DisplayName``
    display_name: str = ""
    #: the number of the user's group, for ``sicPerGroup``; mirrors ``GroupRights``
    group_rights: int = 1
    #: a number of the user, which clients are told; mirrors ``ID``
    id: int = 1

    @classmethod
    def with_password(
        cls,
        logon_name: str,
        password_plain: str,
        display_name: str = "",
        group_rights: int = 1,
        id: int = 1,
    ) -> AuthUser:
        """Return a user with that password, of which the object keeps only a hash.

        The hash is as good as the password: who has it can authenticate. Mirrors ``PasswordPlain``.
        """
        hashed = hashed_password(password_plain)
        return cls(logon_name, hashed, display_name, group_rights, id)


#: gives the user of that name, or None
FindUser = Callable[[str], "AuthUser | None"]


class RestServerAuthentication(KnownAttributes):
    """Base of the schemes; mirrors ``TRestServerAuthentication``.

    :param find_user: ``f(logon_name) -> AuthUser or None``, called in the threads of connections,
        several at once. What it raises is answered with 500.
    """

    #: the scheme's name
    scheme: ClassVar[str] = ""

    def __init__(self, find_user: FindUser) -> None:
        if type(self) is RestServerAuthentication:
            raise TypeError("use one of the classes that derive from RestServerAuthentication")
        check_callback(find_user, "find_user", "logon_name")
        self.find_user: FindUser = find_user

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class RestServerAuthenticationDefault(RestServerAuthentication):
    """The client proves that it knows the password, and signs the URL of each request.

    Who listens learns no password, but can repeat requests, and guess at a weak password: use TLS.
    Mirrors ``TRestServerAuthenticationDefault``.
    """

    scheme = "default"


class RestServerAuthenticationNone(RestServerAuthentication):
    """The client says who it is, and nobody proves anything; its session is known by a number.

    Who listens can use the session too. Mirrors ``TRestServerAuthenticationNone``.
    """

    scheme = "none"


class RestServerAuthenticationHttpBasic(RestServerAuthentication):
    """The client sends its name and password with each request: never without TLS.

    Mirrors ``TRestServerAuthenticationHttpBasic``.
    """

    scheme = "basic"
