"""The messages of the topics protocol, converted from JSON text to values and back.

They are specified in ``docs/reference/topics-protocol.md``. Values only: this module uses no
sockets, threads, clocks or hubs. Messages that violate the specification raise
:class:`WebSocketsProtocolError` with the close code.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from ..errors import WebSocketsProtocolError

#: the supported version of the protocol
VERSION = 1

#: the close code for an invalid message
CLOSE_BAD_MESSAGE = 1007
#: the close code for messages in the wrong order or too fast
CLOSE_POLICY = 1008
#: the close code for a binary message
CLOSE_BINARY = 1003
#: the close code for a connection whose session has a newer one
CLOSE_TAKEN_OVER = 4001
#: the close code for an unsupported version
CLOSE_VERSION = 4002

#: numbers above this lose precision in JavaScript
MOST_NUMBER = 2**53 - 1
#: the maximum length of an epoch, in characters
MOST_EPOCH = 255

_SESSION = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)
#: the start of a publication as our server writes it; the rest of the message is its data
_PUBLICATION = re.compile(
    r'\{"type":"pub","topic":("(?:[^"\\]|\\.)*"),"offset":([1-9][0-9]{0,15}),'
    r'(?:"epoch":("(?:[^"\\]|\\.)*"),)?"data":'
)


class Hello(NamedTuple):
    """A client introduces itself."""

    version: int
    session: str


class Subscribe(NamedTuple):
    """A client subscribes to a topic, starting after *since*: an epoch and an offset."""

    topic: str
    since: tuple[str, int] | None


class Unsubscribe(NamedTuple):
    """A client unsubscribes from a topic."""

    topic: str


class Publish(NamedTuple):
    """A client publishes data."""

    topic: str
    sequence: int
    data: Any


class Again(NamedTuple):
    """A client sends its unanswered publications again."""


class AskMembers(NamedTuple):
    """A client asks for the list of subscribers."""

    topic: str


class Ping(NamedTuple):
    """A client requests a pong."""


class Unknown(NamedTuple):
    """A message of a later version."""

    type: str


ClientMessage = Hello | Subscribe | Unsubscribe | Publish | Again | AskMembers | Ping | Unknown


class Welcome(NamedTuple):
    """The server answers a ``hello``."""

    version: int
    member: str
    limits: dict[str, int]


class Subscribed(NamedTuple):
    """A subscription begins or continues after that position."""

    topic: str
    epoch: str
    offset: int
    recovered: bool
    missed: int
    reason: str


class Received(NamedTuple):
    """A publication. *epoch* is ``''`` if it has not changed since the previous one."""

    topic: str
    offset: int
    epoch: str
    json: str
    data: Any


class LostSome(NamedTuple):
    """Publications are lost; the subscription continues after that position."""

    topic: str
    epoch: str
    offset: int
    reason: str


class Paused(NamedTuple):
    """The server has stopped sending a topic."""

    topic: str
    reason: str


class Unsubscribed(NamedTuple):
    """A subscription has ended; with a *code*, the server ended it."""

    topic: str
    code: str
    reason: str


class Ack(NamedTuple):
    """A publication was published at that offset."""

    sequence: int
    topic: str
    epoch: str
    offset: int
    repeated: bool


class Nack(NamedTuple):
    """A publication was not published. *retry* is in milliseconds; None: it is final."""

    sequence: int
    code: str
    reason: str
    retry: int | None


class MembersAre(NamedTuple):
    """Who is subscribed."""

    topic: str
    members: dict[str, Any]


class Failed(NamedTuple):
    """The server cannot do what a message of the type *on* requested."""

    on: str
    topic: str
    code: str
    reason: str
    retry: int | None


class Pong(NamedTuple):
    """The answer to a ping."""


ServerMessage = (
    Welcome
    | Subscribed
    | Received
    | LostSome
    | Paused
    | Unsubscribed
    | Ack
    | Nack
    | MembersAre
    | Failed
    | Pong
    | Unknown
)


# ------------------------------------------------------------------------------------------ writing

#: the encoder for messages, which escapes, so that a peer's lone surrogates can be sent back to it
_text = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
#: the encoder without escapes, whose text is shorter for letters beyond ASCII
_short_text = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False, ensure_ascii=False, check_circular=True
).encode


def compact(value: Any) -> str:
    """Return *value* as compact JSON that can be encoded in UTF-8.

    Raises ``TypeError``/``ValueError`` for what JSON cannot represent.
    """
    try:
        text = _short_text(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        # lone surrogates
        return _text(value)
    except RecursionError:
        raise ValueError("the data is nested too deeply for JSON") from None
    return text


def is_session(session: str) -> bool:
    """Return whether *session* is a valid name of a session."""
    return _SESSION.fullmatch(session) is not None


def hello(session: str) -> str:
    """Return a client's first message."""
    return f'{{"type":"hello","v":{VERSION},"session":{_text(session)}}}'


def subscribe(topic: str, since: tuple[str, int] | None = None) -> str:
    """Return a client's request for a topic, starting after the position *since*."""
    if since is None:
        return f'{{"type":"sub","topic":{_text(topic)}}}'
    epoch, offset = since
    place = f'{{"epoch":{_text(epoch)},"offset":{offset}}}'
    return f'{{"type":"sub","topic":{_text(topic)},"since":{place}}}'


def unsubscribe(topic: str) -> str:
    """Return a client's request to end a subscription."""
    return f'{{"type":"unsub","topic":{_text(topic)}}}'


def publish(topic: str, sequence: int, data: str) -> str:
    """Return a client's publication; *data* is JSON text."""
    return f'{{"type":"pub","topic":{_text(topic)},"seq":{sequence},"data":{data}}}'


def ask_members(topic: str) -> str:
    """Return a client's request for the list of subscribers."""
    return f'{{"type":"members","topic":{_text(topic)}}}'


AGAIN = '{"type":"again"}'
PING = '{"type":"ping"}'
PONG = '{"type":"pong"}'


def welcome(version: int, member: str, limits: dict[str, int]) -> str:
    """Return a server's answer to ``hello``."""
    rest = f'"member":{_text(member)},"limits":{_text(limits)}'
    return f'{{"type":"hello","v":{version},{rest}}}'


def subscribed(
    topic: str, epoch: str, offset: int, recovered: bool, missed: int, reason: str = ""
) -> str:
    """Return a server's answer to ``sub``."""
    why = "" if recovered else f',"reason":{_text(reason)}'
    return (
        f'{{"type":"sub","topic":{_text(topic)},"epoch":{_text(epoch)},"offset":{offset},'
        f'"recovered":{"true" if recovered else "false"},"missed":{missed}{why}}}'
    )


def publication(topic: str, offset: int, data: str, epoch: str = "") -> str:
    """Return a publication for subscribers; *data* is JSON text. *epoch*: the topic's new one."""
    new = f'"epoch":{_text(epoch)},' if epoch else ""
    return f'{{"type":"pub","topic":{_text(topic)},"offset":{offset},{new}"data":{data}}}'


def lost(topic: str, epoch: str, offset: int, reason: str) -> str:
    """Return the message that publications are lost, and where the subscription continues."""
    return (
        f'{{"type":"lost","topic":{_text(topic)},"epoch":{_text(epoch)},"offset":{offset},'
        f'"reason":{_text(reason)}}}'
    )


def paused(topic: str, reason: str) -> str:
    """Return the message that the server stops sending a topic until the client asks again."""
    return f'{{"type":"paused","topic":{_text(topic)},"reason":{_text(reason)}}}'


def unsubscribed(topic: str, code: str = "", reason: str = "") -> str:
    """Return the message that a subscription has ended; *code*: by the server."""
    why = f',"code":{_text(code)},"reason":{_text(reason)}' if code else ""
    return f'{{"type":"unsub","topic":{_text(topic)}{why}}}'


def ack(sequence: int, topic: str, epoch: str, offset: int, repeated: bool) -> str:
    """Return the message that a publication has its offset."""
    again = ',"repeated":true' if repeated else ""
    return (
        f'{{"type":"ack","seq":{sequence},"topic":{_text(topic)},"epoch":{_text(epoch)},'
        f'"offset":{offset}{again}}}'
    )


def nack(sequence: int, topic: str, code: str, reason: str, retry: int | None = None) -> str:
    """Return the message that a publication was not published."""
    later = "" if retry is None else f',"retry":{retry}'
    return (
        f'{{"type":"nack","seq":{sequence},"topic":{_text(topic)},"code":{_text(code)},'
        f'"reason":{_text(reason)}{later}}}'
    )


def members(topic: str, present: dict[str, Any]) -> str:
    """Return the message that lists who is subscribed."""
    return f'{{"type":"members","topic":{_text(topic)},"members":{compact(present)}}}'


def error(on: str, topic: str, code: str, reason: str, retry: int | None = None) -> str:
    """Return the message that a request of the type *on* cannot be fulfilled."""
    where = f'"topic":{_text(topic)},' if topic else ""
    later = "" if retry is None else f',"retry":{retry}'
    return (
        f'{{"type":"error","on":{_text(on)},{where}"code":{_text(code)},'
        f'"reason":{_text(reason)}{later}}}'
    )


# ------------------------------------------------------------------------------------------ reading


def _bad(text: str) -> WebSocketsProtocolError:
    return WebSocketsProtocolError(CLOSE_BAD_MESSAGE, text)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_no_number).decode


def _object(text: str) -> tuple[str, dict[str, Any]]:
    """Return the type of a message, and all its fields."""
    try:
        fields = _decode(text)
    except RecursionError:
        raise _bad("the JSON is nested too deeply") from None
    except ValueError:
        raise _bad("a message must be JSON") from None
    if not isinstance(fields, dict):
        raise _bad("a message must be a JSON object")
    return _str(fields, "type"), fields


def _str(fields: dict[str, Any], name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise _bad(f"'{name}' must be a string")
    return value


def _int(fields: dict[str, Any], name: str, least: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not least <= value <= MOST_NUMBER:
        raise _bad(f"'{name}' must be an integer, at least {least}")
    return value


def _bool(fields: dict[str, Any], name: str, default: bool | None = None) -> bool:
    value = fields.get(name, default)
    if type(value) is not bool:
        raise _bad(f"'{name}' must be true or false")
    return value


def _retry(fields: dict[str, Any]) -> int | None:
    return None if fields.get("retry") is None else _int(fields, "retry", 0)


def _epoch(fields: dict[str, Any]) -> str:
    epoch = _str(fields, "epoch")
    if len(epoch) > MOST_EPOCH:
        raise _bad(f"'epoch' must have at most {MOST_EPOCH} characters")
    return epoch


def _since(fields: dict[str, Any]) -> tuple[str, int] | None:
    since = fields.get("since")
    if since is None:
        return None
    if not isinstance(since, dict):
        raise _bad("'since' must be an object with 'epoch' and 'offset'")
    return _epoch(since), _int(since, "offset", 0)


def _hello(fields: dict[str, Any]) -> Hello:
    session = _str(fields, "session")
    if not is_session(session):
        raise _bad("'session' must be 16 to 64 letters, digits, '-' or '_'")
    return Hello(_int(fields, "v", 0), session)


def _publish(fields: dict[str, Any]) -> Publish:
    if "data" not in fields:
        raise _bad("'data' is missing")
    return Publish(_str(fields, "topic"), _int(fields, "seq", 1), fields["data"])


_FROM_CLIENTS = {
    "hello": _hello,
    "sub": lambda fields: Subscribe(_str(fields, "topic"), _since(fields)),
    "unsub": lambda fields: Unsubscribe(_str(fields, "topic")),
    "pub": _publish,
    "again": lambda fields: Again(),
    "members": lambda fields: AskMembers(_str(fields, "topic")),
    "ping": lambda fields: Ping(),
}


def read_client_message(text: str) -> ClientMessage:
    """Return a client's message. The names of topics are not checked.

    Raises :class:`WebSocketsProtocolError` for an invalid message.
    """
    kind, fields = _object(text)
    read: Any = _FROM_CLIENTS.get(kind)
    message: ClientMessage = Unknown(kind) if read is None else read(fields)
    return message


def _welcome(fields: dict[str, Any]) -> Welcome:
    limits = fields.get("limits", {})
    if not isinstance(limits, dict):
        raise _bad("'limits' must be an object")
    numbers = {name: value for name, value in limits.items() if type(value) is int}
    return Welcome(_int(fields, "v", 1), _str(fields, "member", ""), numbers)


def _subscribed(fields: dict[str, Any]) -> Subscribed:
    return Subscribed(
        _str(fields, "topic"),
        _epoch(fields),
        _int(fields, "offset", 0),
        _bool(fields, "recovered", True),
        _int(fields, "missed", 0) if "missed" in fields else 0,
        _str(fields, "reason", ""),
    )


def _received(fields: dict[str, Any]) -> Received:
    if "data" not in fields:
        raise _bad("'data' is missing")
    data = fields["data"]
    return Received(
        _str(fields, "topic"),
        _int(fields, "offset", 1),
        _epoch(fields) if "epoch" in fields else "",
        compact(data),
        data,
    )


def _members(fields: dict[str, Any]) -> MembersAre:
    present = fields.get("members")
    if not isinstance(present, dict):
        raise _bad("'members' must be an object")
    return MembersAre(_str(fields, "topic"), present)


_FROM_SERVERS = {
    "hello": _welcome,
    "sub": _subscribed,
    "pub": _received,
    "lost": lambda fields: LostSome(
        _str(fields, "topic"),
        _epoch(fields),
        _int(fields, "offset", 0),
        _str(fields, "reason", ""),
    ),
    "paused": lambda fields: Paused(_str(fields, "topic"), _str(fields, "reason", "")),
    "unsub": lambda fields: Unsubscribed(
        _str(fields, "topic"), _str(fields, "code", ""), _str(fields, "reason", "")
    ),
    "ack": lambda fields: Ack(
        _int(fields, "seq", 1),
        _str(fields, "topic"),
        _epoch(fields),
        _int(fields, "offset", 1),
        _bool(fields, "repeated", False),
    ),
    "nack": lambda fields: Nack(
        _int(fields, "seq", 1), _str(fields, "code"), _str(fields, "reason", ""), _retry(fields)
    ),
    "members": _members,
    "error": lambda fields: Failed(
        _str(fields, "on"),
        _str(fields, "topic", ""),
        _str(fields, "code"),
        _str(fields, "reason", ""),
        _retry(fields),
    ),
    "pong": lambda fields: Pong(),
}


def read_server_message(text: str) -> ServerMessage:
    """Return a server's message.

    Raises :class:`WebSocketsProtocolError` for an invalid message.
    """
    head = _PUBLICATION.match(text)
    if head is not None and text[-1] == "}":
        # the usual message: the rest of it is its data, which needs no conversion
        data_text = text[head.end() : -1]
        try:
            data = _decode(data_text)
            topic, epoch = _decode(head[1]), "" if head[3] is None else _decode(head[3])
        except (ValueError, RecursionError):
            # fields after the data, or invalid JSON: the slow path finds out
            pass
        else:
            offset = int(head[2])
            if 0 < offset <= MOST_NUMBER and len(epoch) <= MOST_EPOCH:
                return Received(topic, offset, epoch, data_text, data)
    kind, fields = _object(text)
    read: Any = _FROM_SERVERS.get(kind)
    message: ServerMessage = Unknown(kind) if read is None else read(fields)
    return message
