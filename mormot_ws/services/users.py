"""How a server's clients authenticate: the schemes of native servers, and their users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from ..attributes import KnownAttributes
from ..callbacks import check_callback
from .authentication import hashed_password


@dataclass(frozen=True)
class AuthUser:
    """A user who can have sessions. Mirrors ``TAuthUser``."""

    #: the exact login name; mirrors ``LogonName``
    logon_name: str
    #: the hash of the password, see :meth:`with_password`; mirrors ``PasswordHashHexa``
    password_hash_hexa: str = field(default="", repr=False)
    #: a display name; mirrors ``DisplayName``
    display_name: str = ""
    #: the number of the user's group, for ``sicPerGroup``; mirrors ``GroupRights``
    group_rights: int = 1
    #: the number of the user, which is sent to clients; mirrors ``ID``
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
        """Return a user with *password_plain*, of which only a hash is kept.

        Protect the hash like the password: it is enough to authenticate. Mirrors
        ``PasswordPlain``.
        """
        hashed = hashed_password(password_plain)
        return cls(logon_name, hashed, display_name, group_rights, id)


#: returns the user with that name, or None
FindUser = Callable[[str], "AuthUser | None"]


class RestServerAuthentication(KnownAttributes):
    """The base class of authentication schemes. Mirrors ``TRestServerAuthentication``.

    :param find_user: ``f(logon_name) -> AuthUser or None``, called in the threads of connections,
        several at once. If it raises, the answer is 500.
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

    An eavesdropper does not see the password, but can replay requests and guess a weak password:
    use TLS. Mirrors ``TRestServerAuthenticationDefault``.
    """

    scheme = "default"


class RestServerAuthenticationNone(RestServerAuthentication):
    """The client sends its name without any proof; a number identifies its session.

    An eavesdropper can use the session too. Mirrors ``TRestServerAuthenticationNone``.
    """

    scheme = "none"


class RestServerAuthenticationHttpBasic(RestServerAuthentication):
    """The client sends its name and password with each request: never use it without TLS.

    Mirrors ``TRestServerAuthenticationHttpBasic``.
    """

    scheme = "basic"
