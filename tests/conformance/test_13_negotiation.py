"""Section 13, negotiating permessage-deflate in the handshake (RFC 7692 §5, §7.1; RFC 6455 §9.1).

Unlike the other sections the two roles have cases of their own here: a server judges offers, a
client judges answers.
"""

from __future__ import annotations

from typing import Any

import pytest
from support import Recorder

from mormot_ws import PermessageDeflate

from .compression import Compression, Parameters, compressed, story
from .peer import ClientUpgrade, open_peer
from .wire import TEXT, text

PMD = "permessage-deflate"


def exchange_some(z: Compression) -> None:
    """Exchange messages that would show a window that does not fit."""
    for size in (100, 3000, 40_000, 3000):
        z.exchange(story("text", size))
    z.peer.close()


# --------------------------------------------------------------------------------------- the server

#: offer, and what the answer has to agree to at least
ACCEPTED = {
    PMD: Parameters(),
    f"{PMD}; client_max_window_bits": Parameters(),
    f"{PMD}; server_no_context_takeover": Parameters(server_no_context_takeover=True),
    f"{PMD}; client_no_context_takeover": Parameters(client_no_context_takeover=True),
    f"{PMD}; server_max_window_bits=9": Parameters(server_max_window_bits=9),
    f"{PMD}; server_max_window_bits=15": Parameters(server_max_window_bits=15),
    f"{PMD}; client_max_window_bits=9": Parameters(client_max_window_bits=9),
    f"{PMD}; client_max_window_bits=15": Parameters(client_max_window_bits=15),
    f"{PMD}; client_max_window_bits; server_max_window_bits=10; server_no_context_takeover": (
        Parameters(server_no_context_takeover=True, server_max_window_bits=10)
    ),
    f"{PMD};client_max_window_bits=12;server_no_context_takeover;client_no_context_takeover": (
        Parameters(True, True, None, 12)
    ),
    f"{PMD} ;\tserver_max_window_bits = 11 ; client_max_window_bits": Parameters(
        server_max_window_bits=11
    ),
    f'{PMD}; server_max_window_bits="12"; client_max_window_bits="10"': Parameters(
        False, False, 12, 10
    ),
    f"x-webkit-deflate-frame, {PMD}": Parameters(),
    f"foo; bar=1; baz, permessage-bzip2; x, {PMD}; client_max_window_bits": Parameters(),
    f"{PMD}; server_max_window_bits=99, {PMD}; server_no_context_takeover": Parameters(
        server_no_context_takeover=True
    ),
    f"{PMD}; unknown, {PMD}": Parameters(),
    f"{PMD}; server_max_window_bits=9, {PMD}": Parameters(server_max_window_bits=9),
    f", ,{PMD}, ,": Parameters(),
}


def check_answer(answer: str, offer: Parameters, client_bits_offered: bool) -> Parameters:
    """Return the parameters of an *answer*, which has to meet the *offer*."""
    agreed = Parameters.read(answer)
    assert agreed.server_no_context_takeover or not offer.server_no_context_takeover
    if offer.server_max_window_bits:
        assert agreed.server_max_window_bits
        assert agreed.server_max_window_bits <= offer.server_max_window_bits
    assert client_bits_offered or agreed.client_max_window_bits is None
    return agreed


def with_offers(agreed: Parameters, offer: Parameters) -> Parameters:
    """Return what is in force: the client keeps to its own offer even where the answer does not
    say so.
    """
    bits = [
        value for value in (agreed.client_max_window_bits, offer.client_max_window_bits) if value
    ]
    return Parameters(
        agreed.server_no_context_takeover,
        agreed.client_no_context_takeover or offer.client_no_context_takeover,
        agreed.server_max_window_bits,
        min(bits) if bits else None,
    )


@pytest.mark.parametrize("offer", ACCEPTED)
def test_13_1_a_valid_offer_is_accepted(offer: str) -> None:
    """The server's answer meets what was asked, and both sides understand each other afterwards."""
    asked = ACCEPTED[offer]
    with open_peer("server", offer=offer, permessage_deflate=True) as peer:
        agreed = check_answer(peer.extension, asked, "client_max_window_bits" in offer)
        exchange_some(Compression(peer, with_offers(agreed, asked)))


DECLINED = [
    f"{PMD}; unknown",
    f"{PMD}; unknown=1",
    f"{PMD}; server_no_context_takeover; server_no_context_takeover",
    f"{PMD}; client_max_window_bits; client_max_window_bits=10",
    f"{PMD}; server_max_window_bits=10; server_max_window_bits=10",
    f"{PMD}; server_max_window_bits",
    *[
        f"{PMD}; server_max_window_bits={bits}"
        for bits in ("7", "16", "0", "-9", "010", "+10", "1e1", "x", '""', "10.0")
    ],
    *[
        f"{PMD}; client_max_window_bits={bits}"
        for bits in ("7", "16", "0", "-9", "010", "+10", "1e1", "x", '""')
    ],
    f"{PMD}; server_no_context_takeover=1",
    f"{PMD}; client_no_context_takeover=true",
    f'{PMD}; client_no_context_takeover=""',
    f"{PMD}; server_max_window_bits=10 11",
    "permessage-deflated",
    "x-webkit-deflate-frame",
    "permessage-bzip2",
]


@pytest.mark.parametrize("offer", DECLINED)
def test_13_2_an_invalid_offer_is_declined(offer: str) -> None:
    """An offer with an unknown, repeated or invalid parameter is declined (RFC 7692 §7.1); the
    connection goes on without it.
    """
    with open_peer("server", offer=offer, permessage_deflate=True) as peer:
        assert not peer.extension
        peer.exchange(text("*" * 1000))
        peer.close()


@pytest.mark.parametrize(
    "offer", [f"{PMD}; server_max_window_bits=8", f"{PMD}; server_max_window_bits=8, {PMD}"]
)
def test_13_3_a_window_that_zlib_does_not_have_is_declined_or_kept(offer: str) -> None:
    """Who is asked for 8 bits declines, takes the next offer, or keeps to them: never uses more
    than asked for.
    """
    with open_peer("server", offer=offer, permessage_deflate=True) as peer:
        if peer.extension:
            exchange_some(Compression(peer, Parameters.read(peer.extension)))
        else:
            peer.exchange(text("*" * 1000))


def test_13_4_a_client_of_8_bits_is_understood() -> None:
    """A client that compresses with 8 bits can be inflated by any window."""
    with open_peer(
        "server", offer=f"{PMD}; client_max_window_bits=8", permessage_deflate=True
    ) as peer:
        agreed = Parameters.read(peer.extension)
        assert agreed.client_max_window_bits in (None, 8)
        exchange_some(Compression(peer, agreed))


def test_13_5_offers_in_several_headers_are_one_list() -> None:
    """``Sec-WebSocket-Extensions`` may be repeated; the offers keep their order (RFC 6455 §9.1)."""
    offer = (
        f"{PMD}; unknown\r\nSec-WebSocket-Extensions: foo\r\nSec-WebSocket-Extensions: {PMD}; "
        "server_max_window_bits=9"
    )
    with open_peer("server", offer=offer, permessage_deflate=True) as peer:
        exchange_some(
            Compression(
                peer, check_answer(peer.extension, Parameters(False, False, 9, None), False)
            )
        )


@pytest.mark.parametrize("offer", [None, "", PMD])
def test_13_6_it_is_off_by_default(offer: str | None) -> None:
    """A server with default settings agrees to nothing, like the original."""
    with open_peer("server", offer=offer) as peer:
        assert not peer.extension
        peer.send(*compressed(TEXT, b"\x00"))
        peer.expect_failure(1002)


def test_13_7_nothing_is_answered_to_a_client_that_offers_nothing() -> None:
    """A server that would like to compress does not impose it."""
    with open_peer("server", permessage_deflate=PermessageDeflate(True, True, 9, 9)) as peer:
        assert not peer.extension
        peer.exchange(text("*" * 1000))
        peer.close()


SERVER_WISHES: list[tuple[dict[str, Any], str, Parameters]] = [
    ({"server_no_context_takeover": True}, PMD, Parameters(server_no_context_takeover=True)),
    ({"client_no_context_takeover": True}, PMD, Parameters(client_no_context_takeover=True)),
    ({"server_max_window_bits": 10}, PMD, Parameters(server_max_window_bits=10)),
    (
        {"server_max_window_bits": 12},
        f"{PMD}; server_max_window_bits=10",
        Parameters(server_max_window_bits=10),
    ),
    (
        {"server_max_window_bits": 10},
        f"{PMD}; server_max_window_bits=12",
        Parameters(server_max_window_bits=10),
    ),
    ({"client_max_window_bits": 10}, PMD, Parameters()),
    (
        {"client_max_window_bits": 10},
        f"{PMD}; client_max_window_bits",
        Parameters(client_max_window_bits=10),
    ),
    (
        {"client_max_window_bits": 10},
        f"{PMD}; client_max_window_bits=9",
        Parameters(client_max_window_bits=9),
    ),
    (
        {"client_max_window_bits": 10},
        f"{PMD}; client_max_window_bits=15",
        Parameters(client_max_window_bits=10),
    ),
]


@pytest.mark.parametrize(("wishes", "offer", "agreed"), SERVER_WISHES, ids=str)
def test_13_8_the_servers_own_wishes_are_in_its_answer(
    wishes: dict[str, Any], offer: str, agreed: Parameters
) -> None:
    """What the server wants beyond the offer is answered where RFC 7692 allows it, and kept to."""
    with open_peer("server", offer=offer, permessage_deflate=PermessageDeflate(**wishes)) as peer:
        assert Parameters.read(peer.extension) == agreed
        exchange_some(Compression(peer, agreed))


# --------------------------------------------------------------------------------------- the client

OPTIONS: list[tuple[dict[str, Any], Parameters]] = [
    ({}, Parameters()),
    ({"server_no_context_takeover": True}, Parameters(server_no_context_takeover=True)),
    ({"client_no_context_takeover": True}, Parameters(client_no_context_takeover=True)),
    ({"server_max_window_bits": 9}, Parameters(server_max_window_bits=9)),
    ({"client_max_window_bits": 9}, Parameters(client_max_window_bits=9)),
    (
        {
            "server_no_context_takeover": True,
            "client_no_context_takeover": True,
            "server_max_window_bits": 10,
        },
        Parameters(True, True, 10, None),
    ),
]


def offered(head_value: str) -> tuple[Parameters, bool]:
    """Return the parameters of a client's offer, which has to be a valid one, and whether it takes
    client_max_window_bits.
    """
    takes = "client_max_window_bits" in head_value
    items = [item for item in head_value.split("; ") if item != "client_max_window_bits"]
    return Parameters.read("; ".join(items)), takes


@pytest.mark.parametrize(("options", "expected"), OPTIONS, ids=str)
def test_13_20_the_client_offers_what_its_settings_say(
    options: dict[str, Any], expected: Parameters
) -> None:
    """Each parameter of the settings is in the offer; client_max_window_bits always is, so that
    the server may limit it.
    """
    with ClientUpgrade(Recorder(), permessage_deflate=PermessageDeflate(**options)) as upgrading:
        head = upgrading.start()
        parameters, takes_client_bits = offered(head.headers["sec-websocket-extensions"])
        assert parameters == expected
        assert takes_client_bits
        upgrading.raw.send(upgrading.raw.answer(head))
        assert upgrading.finish() == ""


def test_13_21_the_client_offers_nothing_by_default() -> None:
    """Compression is off unless the settings ask for it."""
    with ClientUpgrade(Recorder()) as upgrading:
        head = upgrading.start()
        assert "sec-websocket-extensions" not in head.headers
        upgrading.raw.send(upgrading.raw.answer(head))
        assert upgrading.finish() == ""


#: the client's options, a valid answer, and what is in force then
ANSWERS: list[tuple[dict[str, Any], str, Parameters]] = [
    ({}, PMD, Parameters()),
    ({}, f"{PMD}; server_no_context_takeover", Parameters(server_no_context_takeover=True)),
    ({}, f"{PMD}; client_no_context_takeover", Parameters(client_no_context_takeover=True)),
    ({}, f"{PMD}; server_max_window_bits=8", Parameters(server_max_window_bits=8)),
    ({}, f"{PMD}; server_max_window_bits=9", Parameters(server_max_window_bits=9)),
    ({}, f"{PMD}; client_max_window_bits=8", Parameters(client_max_window_bits=8)),
    ({}, f"{PMD}; client_max_window_bits=9", Parameters(client_max_window_bits=9)),
    (
        {},
        f"{PMD}; client_max_window_bits=15; server_max_window_bits=15",
        Parameters(False, False, 15, 15),
    ),
    ({}, f'{PMD} ; client_max_window_bits = "10"', Parameters(client_max_window_bits=10)),
    (
        {"server_max_window_bits": 12},
        f"{PMD}; server_max_window_bits=10",
        Parameters(server_max_window_bits=10),
    ),
    ({"client_no_context_takeover": True}, PMD, Parameters(client_no_context_takeover=True)),
    ({"client_max_window_bits": 9}, PMD, Parameters(client_max_window_bits=9)),
    (
        {"client_max_window_bits": 9},
        f"{PMD}; client_max_window_bits=15",
        Parameters(client_max_window_bits=9),
    ),
    (
        {"client_max_window_bits": 12},
        f"{PMD}; client_max_window_bits=9",
        Parameters(client_max_window_bits=9),
    ),
    ({}, f"{PMD}; server_no_context_takeover; client_no_context_takeover", Parameters(True, True)),
]


@pytest.mark.parametrize(("options", "answer", "agreed"), ANSWERS, ids=str)
def test_13_22_a_valid_answer_is_kept_to(
    options: dict[str, Any], answer: str, agreed: Parameters
) -> None:
    """Each parameter of a server's answer is understood, whether it was offered or not."""
    with open_peer(
        "client", answer=answer, permessage_deflate=PermessageDeflate(**options)
    ) as peer:
        exchange_some(Compression(peer, agreed))


def test_13_23_an_answer_without_the_extension_is_accepted() -> None:
    """A server need not compress: the connection goes on without it, and RSV1 stays a fault."""
    with open_peer("client", permessage_deflate=True) as peer:
        peer.exchange(text("*" * 1000))
        peer.send(*compressed(TEXT, b"\x00"))
        peer.expect_failure(1002)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, f"{PMD}; unknown"),
    ({}, f"{PMD}; unknown=1"),
    ({}, f"{PMD}; server_no_context_takeover; server_no_context_takeover"),
    ({}, f"{PMD}; client_max_window_bits=10; client_max_window_bits=10"),
    ({}, f"{PMD}; client_max_window_bits"),
    ({}, f"{PMD}; server_max_window_bits"),
    *[
        ({}, f"{PMD}; server_max_window_bits={bits}")
        for bits in ("7", "16", "0", "-9", "010", "x", '""')
    ],
    *[
        ({}, f"{PMD}; client_max_window_bits={bits}")
        for bits in ("7", "16", "0", "-9", "010", "x", '""')
    ],
    ({}, f"{PMD}; server_no_context_takeover=1"),
    ({}, f"{PMD}; client_no_context_takeover=true"),
    ({}, f"{PMD}, {PMD}"),
    ({}, f"{PMD}\r\nSec-WebSocket-Extensions: {PMD}"),
    ({}, f"{PMD}, foo"),
    ({}, "foo"),
    ({}, "x-webkit-deflate-frame"),
    ({"server_max_window_bits": 10}, PMD),
    ({"server_max_window_bits": 10}, f"{PMD}; server_max_window_bits=11"),
    ({"server_no_context_takeover": True}, PMD),
]


def _refusal(answer: str, **settings: Any) -> str:
    with ClientUpgrade(Recorder(), **settings) as upgrading:
        head = upgrading.start()
        upgrading.raw.send(upgrading.raw.answer(head, Sec_WebSocket_Extensions=answer))
        error = upgrading.finish()
        assert upgrading.raw.read_to_end() == b""
        assert not upgrading.client.connected
        return error


@pytest.mark.parametrize(("options", "answer"), REFUSED, ids=str)
def test_13_24_an_invalid_answer_is_refused(options: dict[str, Any], answer: str) -> None:
    """An answer that was not asked for, or that says what it must not, fails the handshake (RFC
    7692 §5.1, §7.1).
    """
    error = _refusal(answer, permessage_deflate=PermessageDeflate(**options))
    assert error.startswith("Invalid HTTP Upgrade")


@pytest.mark.parametrize("answer", [PMD, "foo", f"{PMD}; client_max_window_bits=9"])
def test_13_25_an_answer_to_no_offer_is_refused(answer: str) -> None:
    """With compression off, any extension in the answer fails the handshake (RFC 6455 §4.1)."""
    assert _refusal(answer).startswith("Invalid HTTP Upgrade")


def test_13_26_both_sides_of_the_library_agree() -> None:
    """The client's offer of every set of options is one that the server accepts."""
    for options, expected in OPTIONS:
        offer = PermessageDeflate(**options).offer()
        with open_peer("server", offer=offer, permessage_deflate=True) as peer:
            agreed = check_answer(peer.extension, expected, True)
            exchange_some(Compression(peer, with_offers(agreed, expected)))
