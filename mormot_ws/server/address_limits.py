"""AddressLimits: how many connections each client address has, and whether it may have more.

No socket or lock belongs in here: the server calls it under the lock of its tables.
"""

from __future__ import annotations

from collections import Counter

from ..core.addresses import UNIX_PEER, address_key
from ..settings import WebSocketProcessSettings
from .visitors import is_trusted


class AddressLimits:
    """Counts the connections of each address, for ``settings.max_connections_per_ip``.

    Each connection, represented by any object, is counted once, for one address.
    """

    __slots__ = ("_key_of", "counts")

    def __init__(self) -> None:
        #: the number of connections of each ``address_key()`` that has any
        self.counts: Counter[str] = Counter()
        # the key under which a connection is counted; without those that are not counted
        self._key_of: dict[object, str] = {}

    def count(self, connection: object, ip: str, settings: WebSocketProcessSettings) -> str:
        """Count *connection* for *ip* alone; return '', or why it cannot be served.

        Connections from a trusted proxy's or load balancer's own address are not counted, nor
        those on Unix sockets, which have no address.
        """
        is_proxy = is_trusted(ip, settings.proxy_protocol_from) or (
            bool(settings.remote_ip_header) and is_trusted(ip, settings.trusted_proxies)
        )
        key = "" if is_proxy or ip == UNIX_PEER else address_key(ip)
        if key == self._key_of.get(connection, ""):
            return ""
        if key and 0 < settings.max_connections_per_ip <= self.counts[key]:
            return f"too many connections from {ip}"
        self.forget(connection)
        if key:
            self.counts[key] += 1
            self._key_of[connection] = key
        return ""

    def forget(self, connection: object) -> None:
        """Stop counting *connection*, if it was counted."""
        key = self._key_of.pop(connection, "")
        if key:
            self.counts[key] -= 1
            if not self.counts[key]:
                del self.counts[key]
