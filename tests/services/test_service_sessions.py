"""Sessions and the objects that belong to them: how they begin, what they are good for, when they
end. On real sockets, or on requests as they arrive.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import zlib
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import quote

import pytest
from support import in_threads, wait_for
from support.rest import KINDS, pair, rest_client, rest_server

from mormot_ws import (
    AuthSession,
    AuthUser,
    ClientServices,
    HttpServerRequest,
    RestServerAuthentication,
    RestServerAuthenticationDefault,
    RestServerAuthenticationHttpBasic,
    RestServerAuthenticationNone,
    ServerServices,
    ServiceError,
    WebSocketsError,
    sicClientDriven,
    sicPerGroup,
    sicPerSession,
    sicPerUser,
    sicShared,
    sicSingle,
)
from mormot_ws.services import sessions as sessions_module
from mormot_ws.services.authentication import SaltedPassword, signature_of

USERS = {
    "ann": AuthUser.with_password("ann", "ann's", "Ann", 2, 11),
    "bob": AuthUser.with_password("bob", "bob's", "Bob", 2, 12),
    "zoë": AuthUser.with_password("zoë", "pässword", "Zoë", 3, 13),
}
DEFAULT = RestServerAuthenticationDefault(USERS.get)


class ICounter(Protocol):
    def next(self) -> int: ...


class IWho(Protocol):
    def who(self) -> str: ...
    def number(self) -> int: ...


class Counter(ICounter):
    """Counts its calls, and what was made and has ended."""

    made: list[Counter] = []
    ended: list[Counter] = []

    def __init__(self) -> None:
        self.calls = 0
        self.made.append(self)

    def next(self) -> int:
        self.calls += 1
        return self.calls

    def free(self) -> None:
        self.ended.append(self)


@pytest.fixture(autouse=True)
def counters() -> None:
    Counter.made.clear()
    Counter.ended.clear()


class Server:
    """As much of a server as the constructor of services looks at."""

    on_request = None
    process_name = ""

    def is_active_websocket(self, connection_id: int) -> object:
        return self


class Ends:
    """A server's services, asked as requests arrive."""

    def __init__(self, kind: Any = sicShared, **options: Any) -> None:
        self.services = ServerServices(Server(), **options)  # type: ignore[arg-type]
        self.services.register(ICounter, Counter() if kind is sicShared else Counter, kind)

    def ask(self, url: str, headers: str = "", method: str = "POST", content: str = "[]") -> Any:
        """Return (status, content)."""
        ctxt = HttpServerRequest(url, method, headers, content)
        status = self.services.on_request(ctxt)
        content = ctxt.out_content
        self.headers = ctxt.out_custom_headers
        return status, content.decode() if isinstance(content, bytes) else content


# ----------------------------------------------------------------------------------- which object


def test_a_single_service_has_an_object_for_each_call() -> None:
    """Which ends with the call, also by an exception."""
    ends = Ends(sicSingle)
    assert [ends.ask("root/Counter.Next") for _ in range(2)] == [(200, '{"result":[1]}')] * 2
    assert len(Counter.ended) == len(Counter.made) == 2


def test_a_client_has_objects_of_its_own() -> None:
    """Numbered from 1, in each answer; freed ones are unknown, and so are others."""
    ends = Ends(sicClientDriven)
    assert ends.ask("root/Counter._instance_") == (200, '{"result":1}')
    assert ends.ask("root/counter._INSTANCE_") == (200, '{"result":2}')
    assert ends.ask("root/Counter.Next/1") == (200, '{"result":[1],"id":1}')
    assert ends.ask("root/Counter/Next/1") == (200, '{"result":[2],"id":1}')
    assert ends.ask("root/Counter.Next/2") == (200, '{"result":[1],"id":2}')
    assert ends.ask("root/Counter.Next") == (200, '{"result":[1],"id":3}')
    assert ends.ask("root/Counter._free_/1") == (200, "")
    assert [one.calls for one in Counter.ended] == [2]
    for url in ("root/Counter._free_/1", "root/Counter.Next/1", "root/Counter.Next/99"):
        assert ends.ask(url)[0] == 403


@pytest.mark.parametrize(
    ("method", "kind", "status"),
    [("POST", "application/json", 200), ("GET", "application/json", 405), ("POST", "", 400)],
)
def test_by_plain_http_no_page_of_another_site_frees_them(
    method: str, kind: str, status: int
) -> None:
    """A browser would send it a GET, or a POST of another type, without asking."""

    class PlainHttp(Server):
        def is_active_websocket(self, connection_id: int) -> object:
            return None

    services = ServerServices(PlainHttp())  # type: ignore[arg-type]
    services.register(ICounter, Counter, sicClientDriven)
    made = HttpServerRequest("/root/Counter._instance_", "POST", "", "[]", "application/json")
    assert services.on_request(made) == 200
    freed = HttpServerRequest("/root/Counter._free_/1", method, "", "[]", kind)
    assert services.on_request(freed) == status
    assert len(Counter.ended) == (status == 200)


def test_objects_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody calls ends, also while others are called."""
    monkeypatch.setattr("mormot_ws.services.instances._SWEEP_SECONDS", 0)
    ends = Ends(sicClientDriven, max_instances=2, instance_timeout=60_000)
    clock = [1000.0]
    monkeypatch.setattr("mormot_ws.services.instances.time.monotonic", lambda: clock[0])
    for _ in range(2):
        ends.ask("root/Counter._instance_")
    assert ends.ask("root/Counter._instance_")[0] == 503
    clock[0] += 59
    assert ends.ask("root/Counter.Next/2")[0] == 200
    clock[0] += 2
    assert ends.ask("root/Counter._instance_") == (200, '{"result":4}')
    assert len(Counter.ended) == 1
    assert ends.ask("root/Counter.Next/1")[0] == 403
    assert ends.ask("root/Counter.Next/2")[0] == 200


@pytest.mark.parametrize("kind", [sicPerSession, sicPerUser, sicPerGroup])
def test_without_a_session_there_is_no_object_of_it(kind: Any) -> None:
    assert Ends(kind).ask("root/Counter.Next")[0] == 403


@pytest.mark.parametrize(
    ("kind", "counts"),
    [(sicPerSession, [1, 1, 1]), (sicPerUser, [1, 2, 1]), (sicPerGroup, [1, 2, 3])],
)
def test_a_session_a_user_and_a_group_have_objects(kind: Any, counts: list[int]) -> None:
    """Two sessions of Ann, and one of Bob, who is in her group."""
    with rest_server(None) as server, contextlib.ExitStack() as stack:
        services = ServerServices(server, authentication=DEFAULT)
        services.register(ICounter, Counter, kind)
        found = []
        for user in ("ann", "ann", "bob"):
            client = stack.enter_context(rest_client(server.port, "synopsebin"))
            mine = ClientServices(client)
            mine.set_user(user, f"{user}'s")
            found.append(mine.get(ICounter).next())
        assert found == counts


def test_an_object_that_cannot_be_made_is_an_error_of_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Counter):
        def __init__(self) -> None:
            raise OSError("no room")

    services = ServerServices(Server())  # type: ignore[arg-type]
    services.register(ICounter, Broken, sicSingle)
    ctxt = HttpServerRequest("root/Counter.Next")
    assert services.on_request(ctxt) == 500
    assert b"no room" in bytes(ctxt.out_content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("implementation", "kind", "message"),
    [
        (Counter(), sicSingle, "register a class, or a function"),
        (lambda a: Counter(), sicSingle, "cannot be called without arguments"),
        (Server, sicClientDriven, "Server does not implement ICounter"),
        (Counter, sicShared, "register an object, not the class"),
    ],
)
def test_an_implementation_fits_its_kind(implementation: Any, kind: Any, message: str) -> None:
    services = ServerServices(Server())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=message):
        services.register(ICounter, implementation, kind)


def test_a_function_may_make_the_objects() -> None:
    services = ServerServices(Server())  # type: ignore[arg-type]
    services.register(ICounter, lambda: Counter(), sicSingle)
    assert services.on_request(HttpServerRequest("root/Counter.Next")) == 200


# ----------------------------------------------------------------------------------- real sessions


class Who(IWho):
    def __init__(self, services: ServerServices) -> None:
        self.services = services

    def who(self) -> str:
        session = self.services.session
        return "" if session is None else session.user_name

    def number(self) -> int:
        session = self.services.session
        return 0 if session is None else session.id


@contextlib.contextmanager
def guarded(
    authentication: RestServerAuthentication = DEFAULT, kind: str = "synopsebin", **options: Any
) -> Iterator[tuple[ServerServices, ClientServices]]:
    """Give a server with sessions, and a client."""
    with pair(kind, None, None) as ends:
        services = ServerServices(ends.server, authentication=authentication, **options)
        services.register(IWho, Who(services))
        yield services, ClientServices(ends.client, root=services.root)


SCHEMES: list[tuple[Any, Any]] = [
    (RestServerAuthenticationDefault, "default"),
    (RestServerAuthenticationNone, "none"),
    (RestServerAuthenticationHttpBasic, "basic"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("authentication", "scheme"), SCHEMES, ids=["default", "none", "basic"])
def test_a_session_begins_and_ends(authentication: Any, scheme: Any, kind: str) -> None:
    """By every scheme, over every protocol, also with names that are not ASCII."""
    with guarded(authentication(USERS.get), kind, root="api") as (services, client):
        told: list[tuple[str, AuthSession]] = []
        services.on_session_create = lambda session: told.append(("begins", session))
        services.on_session_closed = lambda session: told.append(("ends", session))
        who = client.get(IWho)
        with pytest.raises(ServiceError) as raised:
            who.who()
        assert raised.value.status == 403
        client.set_user("zoë", "pässword", scheme)
        assert (who.who(), who.number(), client.user_name) == ("zoë", client.session_id, "zoë")
        (session,) = services.sessions
        assert repr(session) == "<AuthSession of zoë>"
        client.close_session()
        assert (told, client.session_id) == ([("begins", session), ("ends", session)], 0)
        assert not services.sessions
        client.close_session()
        with pytest.raises(ServiceError):
            who.who()


@pytest.mark.parametrize(
    ("authentication", "scheme", "user", "password"),
    [
        (RestServerAuthenticationDefault, "default", "ann", "bob's"),
        (RestServerAuthenticationDefault, "default", "nobody", "ann's"),
        (RestServerAuthenticationHttpBasic, "basic", "ann", "x"),
        (RestServerAuthenticationHttpBasic, "basic", "nobody", ""),
        (RestServerAuthenticationHttpBasic, "default", "ann", "ann's"),
        (RestServerAuthenticationNone, "none", "nobody", ""),
    ],
)
def test_who_proves_nothing_gets_no_session(
    authentication: Any, scheme: Any, user: str, password: str
) -> None:
    """And learns nothing: unknown users are answered like wrong passwords."""
    with guarded(authentication(USERS.get)) as (services, client):
        with pytest.raises(ServiceError, match="wrong user or password") as raised:
            client.set_user(user, password, scheme)
        assert (raised.value.status, services.sessions, client.user_name) == (403, [], "")


@pytest.mark.parametrize(("authentication", "scheme"), SCHEMES, ids=["default", "none", "basic"])
def test_another_user_ends_the_session_of_the_one_before(authentication: Any, scheme: Any) -> None:
    """But a wrong one does not."""
    with guarded(authentication(USERS.get)) as (services, client):
        client.set_user("ann", "ann's", scheme)
        with pytest.raises(ServiceError):
            client.set_user("nobody", "x", scheme)
        assert client.get(IWho).who() == "ann"
        for _ in range(2):
            client.set_user("bob", "bob's", scheme)
        assert client.get(IWho).who() == "bob"
        assert [session.id for session in services.sessions] == [client.session_id]


@pytest.mark.parametrize(
    ("authentication", "scheme"),
    [(RestServerAuthenticationDefault, "default"), (RestServerAuthenticationHttpBasic, "basic")],
)
def test_a_hash_may_have_capital_letters(authentication: Any, scheme: Any) -> None:
    """As a database may have it."""
    kept = USERS["ann"].password_hash_hexa.upper()
    user = AuthUser("ann", kept)
    with guarded(authentication(lambda name: user)) as (_, client):
        client.set_user("ann", "ann's", scheme)
        assert client.get(IWho).who() == "ann"


@pytest.mark.parametrize(
    "authentication", [RestServerAuthenticationDefault, RestServerAuthenticationNone]
)
def test_a_name_that_is_no_utf_8_is_a_name_as_any_other(
    authentication: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody's: no error of the server is logged."""
    asked: list[str] = []
    ends = Ends(authentication=authentication(lambda name: asked.append(name)))
    proof = "&password=x&clientnonce=" + "0" * 40
    for name in ("\udcff", "a\udce4b", "%ff"):
        assert ends.ask(f"root/auth?userName={name}{proof}")[0] == 403
    assert asked == ["\ufffd", "a\ufffdb", "\ufffd"]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("minutes", "told"), [(0.1, 1), (1.9, 1), (60, 60), (1e9, 43_200), (float("inf"), 43_200)]
)
def test_a_client_is_told_how_long_its_session_is_kept(minutes: float, told: int) -> None:
    """In whole minutes, and few enough that their milliseconds fit into 32 bits."""
    authentication = RestServerAuthenticationNone(USERS.get)
    ends = Ends(authentication=authentication, session_timeout_minutes=minutes)
    status, content = ends.ask("root/auth?userName=ann", "", "GET")
    assert (status, json.loads(content)["timeout"]) == (200, told)


@pytest.mark.parametrize("character", [chr(0xD800), chr(0xDCFF), "ä"], ids=ascii)
def test_half_a_character_is_no_proof(character: str, caplog: pytest.LogCaptureFixture) -> None:
    """In a URL or a header. It is refused as any other request, and no error is logged."""
    signing = Signing()
    signing.begin()
    url = signing.sign("root/Counter.Next?a")
    assert signing.ask(url)[0] == 200
    assert signing.ask(url.replace("?a", f"?{character}"))[0] == 403
    basic = Ends(authentication=RestServerAuthenticationHttpBasic(USERS.get))
    for text in (character, f"YW5uOmFubidz{character}"):
        assert basic.ask("root/auth", f"Authorization: Basic {text}", "GET")[0] == 403
    login = base64.b64encode(b"ann:ann's").decode()
    assert basic.ask("root/auth", f"Authorization: Basic {login}", "GET")[0] == 200
    cookie = basic.headers.partition("Set-Cookie: ")[2].partition(";")[0]
    headers = f"Cookie: {cookie}\r\nAuthorization: Basic {login}{character}"
    assert basic.ask("root/Counter.Next", headers)[0] == 403
    assert "Traceback" not in caplog.text


def test_a_server_without_authentication_has_no_sessions() -> None:
    with pair("synopsebin", None, None) as ends:
        ServerServices(ends.server)
        with pytest.raises(ServiceError) as raised:
            ClientServices(ends.client).set_user("ann", "ann's")
    assert raised.value.status == 400


def test_what_fails_while_users_are_looked_for_is_told_by_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def find(name: str) -> AuthUser | None:
        raise OSError("the database is gone")

    with (
        guarded(RestServerAuthenticationDefault(find), hide_errors=True) as (_, client),
        pytest.raises(ServiceError, match="internal error") as raised,
    ):
        client.set_user("ann", "ann's")
    assert raised.value.status == 500
    assert "the database is gone" in caplog.text


def test_services_may_be_free_for_all() -> None:
    """With bypass_authentication; only the list of services is not."""
    with pair("synopsebin", None, None) as ends:
        services = ServerServices(ends.server, authentication=DEFAULT)
        services.register(IWho, Who(services), bypass_authentication=True)
        client = ClientServices(ends.client)
        assert client.get(IWho).who() == ""
        for url, status in (
            ("root/Who._contract_", 200),
            ("root/timestamp", 200),
            ("root/stat/soa", 403),
            ("root/CacheFlush/_ping_", 403),
            ("root/CacheFlush/_callback_", 403),
            ("root/Nothing.There", 403),
            ("other/Who.Who", 404),
        ):
            assert ends.client.request(url, "POST", 0, "", b"[]", "application/json") == status


def test_a_freed_client_says_goodbye() -> None:
    """Its session is not kept until it expires."""
    with rest_server(None) as server:
        services = ServerServices(server, authentication=DEFAULT)
        services.register(ICounter, Counter, sicPerSession)
        with rest_client(server.port, "synopsejson") as client:
            mine = ClientServices(client)
            mine.set_user("ann", "ann's")
            mine.get(ICounter).next()
        wait_for(lambda: not services.sessions)
        wait_for(lambda: len(Counter.ended) == 1)


def test_the_server_can_end_a_session() -> None:
    with guarded() as (services, client):
        client.set_user("ann", "ann's")
        services.close_session(services.sessions[0])
        with pytest.raises(ServiceError) as raised:
            client.get(IWho).who()
        assert raised.value.status == 403


def test_sessions_go_on_after_reconnections_in_eight_threads() -> None:
    """While the connection is cut again and again, each call is answered in the session, or fails
    as not connected.
    """
    with rest_server(None) as server, rest_client(server.port, "synopsebin") as client:
        services = ServerServices(server, authentication=DEFAULT)
        services.register(IWho, Who(services))
        mine = ClientServices(client)
        mine.set_user("ann", "ann's")
        client.auto_reconnect()
        who, answered = mine.get(IWho), threading.Semaphore(0)
        stop = threading.Event()
        wrong: list[object] = []

        def work(number: int) -> None:
            while not stop.is_set():
                try:
                    if who.who() != "ann":
                        wrong.append(number)
                    answered.release()
                except ConnectionError:
                    stop.wait(0.01)
                except ServiceError as exc:
                    wrong.append(exc)

        def cut() -> None:
            try:
                for _ in range(5):
                    for _ in range(50):
                        assert answered.acquire(timeout=10)
                    for process in server.connections():
                        process.abort("for the test")
            finally:
                stop.set()

        in_threads(9, lambda number: cut() if number == 8 else work(number))
        assert not wrong
        assert len(services.sessions) == 1


# ------------------------------------------------------------------------- what arrives, in detail


class Signing(Ends):
    """Authenticates and signs as the specification says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(sicPerSession, authentication=DEFAULT, **options)
        self.services.register(IWho, Who(self.services))

    def begin(self, user: str = "ann", password: str = "ann's") -> tuple[int, str]:
        """Return the answer to a request for a session."""
        nonce = self.ask(f"root/auth?UserName={quote(user)}&mcf=1", method="GET")[1][11:75]
        self.hashed = hashlib.sha256(f"salt{password}".encode()).hexdigest()
        client_nonce = "06122C08_" + "0123456789abcdef" * 2
        proof = hashlib.sha256(f"root{nonce}{client_nonce}{user}{self.hashed}".encode()).hexdigest()
        url = f"root/auth?username={quote(user)}&password={proof}&clientnonce={client_nonce}"
        self.again = url
        status, content = self.ask(url, method="GET")
        if status == 200:
            self.result = content[11 : content.index('"', 11)]
            self.id = int(self.result.partition("+")[0])
        return status, content

    def sign(self, url: str, ticks: int = 1_000) -> str:
        key = zlib.crc32(self.hashed.encode(), zlib.crc32(self.result.encode()))
        number = zlib.crc32(url.encode(), zlib.crc32(b"%08x" % ticks, key))
        mark = "&" if "?" in url else "?"
        return f"{url}{mark}session_signature={self.id:08x}{ticks:08x}{number:08x}"


def test_the_answer_to_a_new_session() -> None:
    """Has what native clients look for, and the list of services."""
    ends = Signing()
    status, content = ends.begin()
    assert status == 200
    for part in (
        '"logonid":11,"logonname":"ann","logondisplay":"Ann","logongroup":2,"timeout":60',
        '"soa":["Counter","*",3,"Who","*",1]',
    ):
        assert part in content
    assert 1 < ends.id < 1 << 32


def test_a_signature_is_good_for_its_url_and_for_a_while() -> None:
    """Later ones are taken, and the same again; earlier ones for 20 units of 256 ms."""
    ends = Signing()
    ends.begin()
    for ticks, status in ((1_000, 200), (1_000, 200), (5_000, 200), (4_980, 200), (4_979, 403)):
        assert ends.ask(ends.sign("root/Who.Who", ticks))[0] == status
    assert ends.ask(f"/{ends.sign('root/Who.Who', 5_000)}")[0] == 200
    good = ends.sign("root/Who.Who", 5_000)
    for wrong in (
        good.replace("Who.Who", "Who.who"),
        good[:-1],
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        good[:-16],
        f"{good}0",
        good.replace(f"{ends.id:08x}", f"{ends.id ^ 1:08x}"),
        good.replace("session_signature", "session"),
        good.replace("?", "/"),
        f"{good}&x=1",
        "root/Who.Who",
    ):
        assert ends.ask(wrong)[0] in (400, 403), wrong
    assert ends.ask(ends.sign("root/Who.Who?x=1", 5_000))[0] == 200


@pytest.mark.parametrize(
    "algorithm", ["md5", "sha1", "sha256", "sha512", "sha3", "crc32c", "x", ""]
)
def test_each_algorithm_signs_differently(algorithm: str) -> None:
    """Those that a native server may choose; an unknown one counts as CRC-32."""
    signature = signature_of("root/A.B", "000056e2", 0x69DD6F3B, algorithm)
    assert len(signature) == 8
    plain = signature_of("root/A.B", "000056e2", 0x69DD6F3B)
    assert (signature == plain) == (algorithm in ("x", ""))


def test_a_proof_is_for_one_nonce_of_the_client_and_the_latest_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which are good for eight minutes at most."""
    ends = Signing()
    clock = [10_000.0]
    monkeypatch.setattr(sessions_module.time, "monotonic", lambda: clock[0])
    ends.begin()
    clock[0] += 240
    assert ends.ask(ends.again, method="GET")[0] == 200
    assert ends.ask(ends.again.replace("0123", "3210"), method="GET")[0] == 403
    short = ends.again.partition("&clientnonce=")[0] + "&clientnonce=0123"
    assert ends.ask(short, method="GET")[0] == 403
    clock[0] += 240
    assert ends.ask(ends.again, method="GET")[0] == 403


def test_sessions_are_bounded_in_number_and_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is room again when one has expired, and its objects are freed."""
    ends = Signing(max_sessions=2, session_timeout_minutes=1)
    clock = [10_000.0]
    monkeypatch.setattr(sessions_module.time, "monotonic", lambda: clock[0])
    assert [ends.begin()[0] for _ in range(4)] == [200, 200, 403, 403]
    assert len([record for record in caplog.records if "no session for ann" in record.message]) == 1
    assert ends.ask(ends.sign("root/Counter.Next"))[0] == 200
    clock[0] += 59
    assert ends.ask(ends.sign("root/Counter.Next"))[0] == 200
    clock[0] += 59
    assert ends.begin()[0] == 200
    assert len(ends.services.sessions) == 2
    clock[0] += 61
    assert ends.ask(ends.sign("root/Who.Who"))[0] == 403
    assert ends.begin()[0] == 200
    assert len(ends.services.sessions) == 1
    assert len(Counter.ended) == 1


def test_objects_of_a_session_are_not_for_others() -> None:
    """Though their numbers can be guessed."""
    ends = Signing()
    ends.services.register(type("ICart", (ICounter, Protocol), {}), Counter, sicClientDriven)
    ends.begin()
    assert ends.ask(ends.sign("root/Cart._instance_")) == (200, '{"result":1}')
    assert ends.ask(ends.sign("root/Cart.Next/1"))[0] == 200
    assert ends.ask(ends.sign("root/CacheFlush/_ping_"))[1] == '{"n":1}'
    ends.begin("bob", "bob's")
    assert ends.ask(ends.sign("root/Cart.Next/1"))[0] == 403
    assert ends.ask(ends.sign("root/Cart._free_/1"))[0] == 403
    assert ends.ask(ends.sign("root/CacheFlush/_ping_"))[1] == '{"n":0}'


def test_a_goodbye_is_for_one_s_own_session() -> None:
    ends = Signing()
    ends.begin()
    other = ends.id
    ends.begin("bob", "bob's")
    wrong = ends.sign(f"root/auth?userName=bob&session={other}")
    ends.ask(wrong, method="GET")
    assert len(ends.services.sessions) == 2
    right = ends.sign(f"root/auth?userName=bob&session={ends.id}")
    assert ends.ask(right, method="GET") == (200, "")
    assert [session.id for session in ends.services.sessions] == [other]


def test_a_cookie_alone_is_no_session() -> None:
    """A browser would send it to any page's requests."""
    ends = Ends(authentication=RestServerAuthenticationHttpBasic(USERS.get))
    login = f"Authorization: Basic {base64.b64encode(b'ann:ann' + bytes([39]) + b's').decode()}"
    assert ends.ask("root/auth", login, "GET")[0] == 200
    cookie = f"Cookie: {ends.headers.removeprefix('Set-Cookie: ').partition(';')[0]}"
    assert ends.ask("root/Counter.Next", f"{cookie}\r\n{login}")[0] == 200
    assert ends.ask("root/Counter.Next", f"Cookie: x=y; {cookie[8:]}\r\n{login}")[0] == 200
    for headers in (cookie, login, f"Cookie: root=x\r\n{login}", f"{cookie}\r\n{login}x"):
        assert ends.ask("root/Counter.Next", headers)[0] == 403
    for wrong in ("Authorization: Basic !", "Authorization: Bearer x", "Authorization: Basic /w=="):
        assert ends.ask("root/auth", wrong, "GET")[0] == 403


@pytest.mark.parametrize(
    "mcf",
    [
        "",
        "plain",
        "$bcrypt$12$salt$",
        "$pbkdf2-sha256$x$salt$",
        "$pbkdf2-sha256$99999999999$salt$",
        "$pbkdf2-sha256$0$salt$",
        "$pbkdf2-sha256$10$salt",
        "$pbkdf2-sha256$10$a!bc$",
        "$pbkdf2-sha256$10$" + "s" * 400 + "$",
    ],
)
def test_an_unknown_form_of_a_password_is_refused(mcf: str) -> None:
    """By the client, before it computes anything."""
    with pytest.raises(ValueError, match="server"):
        SaltedPassword(mcf, "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "not an object"),
        (b"{}", "no nonce"),
        (b'{"result":"x","logonname":"ann"}', "no session"),
        (b'{"result":"1","mcf":"x"}', "unknown format"),
    ],
)
def test_a_server_that_answers_something_else_gives_no_session(
    content: bytes, message: str
) -> None:
    def strange(ctxt: HttpServerRequest) -> int:
        ctxt.out_content, ctxt.out_content_type = content, "application/json"
        return 200

    with pair("synopsebin", strange) as ends:
        client = ClientServices(ends.client)
        with pytest.raises(ServiceError, match=message):
            client.set_user("ann", "x")
        assert client.session_id == 0


def test_what_cannot_be_an_authentication_is_refused() -> None:
    with pytest.raises(TypeError, match="authentication must be a RestServerAuthenticationDefault"):
        Ends(authentication="default")
    with pytest.raises(TypeError, match="one of the classes"):
        RestServerAuthentication(USERS.get)
    with pytest.raises(TypeError, match="find_user"):
        RestServerAuthenticationDefault(lambda: None)  # type: ignore[arg-type,misc]
    with pytest.raises(ValueError, match="max_sessions must be more than 0"):
        Ends(max_sessions=0)
    with pair("synopsebin", None, None) as ends:
        client = ClientServices(ends.client)
        with pytest.raises(ValueError, match="user_name must not be empty"):
            client.set_user("")
        with pytest.raises(ValueError, match="scheme must be one of"):
            client.set_user("x", scheme="other")  # type: ignore[arg-type]
        with pytest.raises(WebSocketsError, match="colon"):
            client.set_user("a:b", "x", "basic")
    assert "password" not in repr(USERS["ann"])
