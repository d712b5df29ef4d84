"""permessage-deflate: the negotiation as values, the two streams, what leaves on the wire, and
foreign peers both ways.

Whether each form of offer, answer and message is to the letter of RFC 7692 is for
``conformance/test_12_…`` and ``…/test_13_…``.
"""

from __future__ import annotations

import contextlib
import random
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.compression import Compression, Parameters, open_compressed
from conformance.peer import open_peer
from conformance.wire import Frame, binary, text
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    BOUND,
    HOST,
    RawServer,
    RawServerPeer,
    ReconnectingClient,
    Recorder,
    connect,
    echo_server,
    new_client,
)
from support import foreign_server as serve_foreign
from support import text as text_frame
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.sync.client import connect as foreign_connect
from websockets.sync.server import ServerConnection

from mormot_ws import (
    PermessageDeflate,
    WebProcessInFrame,
    WebSocketFrame,
    WebSocketProcessSettings,
    WebSocketProtocolChat,
    WebSocketsProtocolError,
    encode_frame,
    focBinary,
    focPing,
    focText,
    fopAlreadyCompressed,
)
from mormot_ws.core.deflate import DeflateAgreement, Deflater, Inflater, parse_extension

PMD = "permessage-deflate"
QUICK = settings(deadline=None, max_examples=60)
NOISE = random.Random(7692).randbytes(5000)
STORY = b"".join(
    b'{"id": %d, "name": "line %d"}\n' % (number, number * 7919) for number in range(200)
)

bits = st.none() | st.integers(9, 15)
options = st.builds(PermessageDeflate, st.booleans(), st.booleans(), bits, bits)
payloads = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(str.encode),
    st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 2000)).map(
        lambda part: part[0] * part[1]
    ),
    st.integers(0, len(STORY)).map(lambda size: STORY[:size]),
    st.integers(0, len(NOISE)).map(lambda size: NOISE[:size]),
)


# -------------------------------------------------------------------------------------- the options


def test_the_defaults_ask_for_nothing_special() -> None:
    """Context takeover, full windows, and short messages left alone."""
    deflate = PermessageDeflate()
    assert (deflate.server_no_context_takeover, deflate.client_no_context_takeover) == (
        False,
        False,
    )
    assert (deflate.server_max_window_bits, deflate.client_max_window_bits) == (None, None)
    assert deflate.min_bytes > 0


@pytest.mark.parametrize(
    "values",
    [
        {"server_max_window_bits": 8},
        {"server_max_window_bits": 16},
        {"client_max_window_bits": 8},
        {"client_max_window_bits": 0},
        {"level": 0},
        {"level": 10},
        {"mem_level": 0},
        {"mem_level": 10},
        {"min_bytes": -1},
    ],
    ids=str,
)
def test_values_outside_their_range_are_value_errors(values: dict[str, int]) -> None:
    """What zlib or the RFC cannot do is refused when it is asked for, not when a connection
    comes.
    """
    with pytest.raises(ValueError, match=next(iter(values))):
        PermessageDeflate(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [False, True, PermessageDeflate(level=1)], ids=str)
def test_the_setting_is_a_switch_or_the_options(value: bool | PermessageDeflate) -> None:
    """``settings.permessage_deflate`` takes True, False and a :class:`PermessageDeflate`; it is
    off by default.
    """
    assert WebSocketProcessSettings().permessage_deflate is False
    settings = WebSocketProcessSettings(permessage_deflate=value)
    assert settings.permessage_deflate == value
    expected = value if isinstance(value, PermessageDeflate) else PermessageDeflate()
    assert settings.deflate_options() == expected


@pytest.mark.parametrize(
    "value", [None, 1, 0, "permessage-deflate", {}, PermessageDeflate], ids=repr
)
def test_anything_else_in_the_setting_is_a_value_error(value: Any) -> None:
    """A value that is nearly right is refused at once."""
    with pytest.raises(ValueError, match="permessage_deflate"):
        WebSocketProcessSettings(permessage_deflate=value)


# ---------------------------------------------------------------------------------- the negotiation


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("foo", ("foo", [])),
        ("Foo; Bar", ("foo", [("bar", None)])),
        ("foo;a=1;b", ("foo", [("a", "1"), ("b", None)])),
        (" foo ;\ta = 1 ; b ", ("foo", [("a", "1"), ("b", None)])),
        ('foo; a="1"', ("foo", [("a", "1")])),
        ("foo; a=1; a=2", ("foo", [("a", "1"), ("a", "2")])),
    ],
)
def test_an_extension_is_taken_apart(
    header: str, expected: tuple[str, list[tuple[str, str | None]]]
) -> None:
    """The name, and the parameters in order, with or without values, quoted or not (RFC 6455
    §9.1).
    """
    assert parse_extension(header) == expected


@pytest.mark.parametrize("header", ["", ";", "; a", "foo;", "foo; ; a", "foo; =1", "foo; a="])
def test_what_is_no_extension_is_a_value_error(header: str) -> None:
    """A name or value that is missing is not an extension."""
    with pytest.raises(ValueError, match="is not an extension"):
        parse_extension(header)


@pytest.mark.parametrize(
    ("wanted", "offer"),
    [
        (PermessageDeflate(), f"{PMD}; client_max_window_bits"),
        (
            PermessageDeflate(server_no_context_takeover=True),
            f"{PMD}; server_no_context_takeover; client_max_window_bits",
        ),
        (
            PermessageDeflate(client_no_context_takeover=True),
            f"{PMD}; client_no_context_takeover; client_max_window_bits",
        ),
        (
            PermessageDeflate(server_max_window_bits=9),
            f"{PMD}; server_max_window_bits=9; client_max_window_bits",
        ),
        (PermessageDeflate(client_max_window_bits=10), f"{PMD}; client_max_window_bits=10"),
    ],
)
def test_the_offer_says_what_is_wanted(wanted: PermessageDeflate, offer: str) -> None:
    """Each option is a parameter; ``client_max_window_bits`` is always there, so that the server
    may limit it.
    """
    assert wanted.offer() == offer


@given(options, options)
@QUICK
def test_both_sides_agree_on_the_same(client: PermessageDeflate, server: PermessageDeflate) -> None:
    """What the server answers to an offer is an agreement, the same on both sides, that meets the
    wishes of both.
    """
    accepted = server.accept([client.offer()])
    assert accepted is not None
    answer, agreed = accepted
    assert client.settle([answer]) == agreed
    for side in (client, server):
        assert agreed.server_no_context_takeover >= side.server_no_context_takeover
        assert agreed.client_no_context_takeover >= side.client_no_context_takeover
        assert (agreed.server_max_window_bits or 15) <= (side.server_max_window_bits or 15)
        assert (agreed.client_max_window_bits or 15) <= (side.client_max_window_bits or 15)


def test_the_first_offer_that_can_be_met_is_accepted() -> None:
    """Offers are in the client's order of preference; those that are invalid or unknown are passed
    over (RFC 7692 §5).
    """
    offers = [
        "foo",
        f"{PMD}; x",
        f"{PMD}; server_max_window_bits=8",
        f"{PMD}; server_max_window_bits=10",
        PMD,
    ]
    accepted = PermessageDeflate().accept(offers)
    assert accepted == (
        f"{PMD}; server_max_window_bits=10",
        DeflateAgreement(server_max_window_bits=10),
    )


@pytest.mark.parametrize("offers", [[], ["foo"], [f"{PMD}; x"], [""], [";"]])
def test_without_an_offer_that_can_be_met_nothing_is_agreed(offers: list[str]) -> None:
    """The connection then goes on without the extension."""
    assert PermessageDeflate().accept(offers) is None


def test_a_comma_in_a_quoted_value_separates_nothing() -> None:
    """An extension inside another one's quoted value was not offered (RFC 9110 §5.6.1, RFC 6455
    §9.1).
    """
    with open_peer("server", offer=f'foo; a=", {PMD}, "', permessage_deflate=True) as peer:
        assert not peer.extension


def judge(header: str) -> None:
    """Let both sides look at an extension *header*; only what is documented may come of it."""
    deflate = PermessageDeflate()
    for value in (header, f"{PMD};{header}", f"{PMD}; {header}={header}"):
        deflate.accept([value])
        with contextlib.suppress(ValueError):
            deflate.settle([value])


@given(st.text(max_size=60))
@QUICK
def test_no_text_raises_anything_but_what_is_documented(header: str) -> None:
    """Any offer is met or declined, any answer agreed to or a ``ValueError``."""
    judge(header)


@given(
    st.lists(
        st.sampled_from(
            [
                *'=;," \t',
                "8",
                "9",
                "15",
                PMD,
                "client_max_window_bits",
                "server_no_context_takeover",
            ]
        )
    )
)
@QUICK
def test_no_composition_raises_anything_but_what_is_documented(parts: list[str]) -> None:
    """The same for texts made of what offers are made of."""
    judge("".join(parts))


# -------------------------------------------------------------------------------------- the streams


@given(
    st.lists(payloads, min_size=1, max_size=5),
    st.integers(9, 15),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 600),
)
@QUICK
def test_what_is_deflated_is_inflated_in_any_slicing(
    messages: list[bytes], window: int, no_context: bool, level: int, mem_level: int, step: int
) -> None:
    """A series of messages comes out as it went in, for every window, takeover, effort and
    slicing.
    """
    deflater = Deflater(window, no_context, PermessageDeflate(level=level, mem_level=mem_level))
    inflater = Inflater(no_context)
    strict = zlib.decompressobj(-window)
    for message in messages:
        data = deflater.compress(message)
        parts = [
            inflater.decompress(data[at : at + step], 1 << 20) for at in range(0, len(data), step)
        ]
        assert b"".join([*parts, inflater.end_message(1 << 20)]) == message
        # with no more window than agreed
        assert strict.decompress(data + b"\0\0\xff\xff") == message
        if no_context:
            strict = zlib.decompressobj(-window)


@given(
    st.lists(payloads, max_size=4),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 5000), max_size=6),
)
@QUICK
def test_compressed_frames_are_decoded_in_any_slicing(
    messages: list[bytes], masked: bool, no_context: bool, cuts: list[int]
) -> None:
    """The incoming machine gives whole messages out of compressed frames, wherever the stream is
    cut.
    """
    deflater = Deflater(15, no_context, PermessageDeflate())
    key = b"\x01\x02\x03\x04" if masked else None
    stream = b"".join(
        encode_frame(focBinary, deflater.compress(message), key, rsv1=True) for message in messages
    )
    machine = WebProcessInFrame(masked, inflater=Inflater(no_context))
    places = sorted(place % (len(stream) + 1) for place in cuts)
    frames: list[WebSocketFrame] = []
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        frames += machine.feed(stream[start:end])
    assert machine.error is None
    assert [frame.payload for frame in frames] == messages


@given(st.binary(max_size=200), st.integers(0, 100), st.integers(1, 40))
@QUICK
def test_no_bytes_raise_anything_but_the_documented_error(
    data: bytes, limit: int, step: int
) -> None:
    """Whatever is inflated gives at most *limit* bytes, or the error of 1007 or 1009."""
    inflater = Inflater(False)
    left, code = limit, 0
    try:
        for at in range(0, len(data), step):
            left -= len(inflater.decompress(data[at : at + step], left))
            assert left >= 0
        assert len(inflater.end_message(left)) <= left
    except WebSocketsProtocolError as exc:
        code = exc.code
    assert code in (0, 1007, 1009)


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_the_limit_is_exact(size: int) -> None:
    """As many bytes as the limit come out; one fewer in the limit is 1009."""
    data = Deflater(15, False, PermessageDeflate()).compress(b"x" * size)
    assert len(Inflater(False).decompress(data, size)) == size
    if size:
        with pytest.raises(WebSocketsProtocolError, match="1009"):
            Inflater(False).decompress(data, size - 1)


def inflated(data: bytes, step: int) -> bytes | int:
    """Return one message inflated in pieces of *step* bytes, or the code of the error."""
    inflater = Inflater(False)
    try:
        parts = [
            inflater.decompress(data[at : at + step], 10_000) for at in range(0, len(data), step)
        ]
        return b"".join([*parts, inflater.end_message(10_000)])
    except WebSocketsProtocolError as exc:
        return exc.code


@pytest.mark.parametrize("step", [1, 5, 40])
def test_final_blocks_are_inflated_alike_in_any_slicing(step: int) -> None:
    """A message with a BFINAL block in it (RFC 7692 §7.2.3.5) does not depend on where TCP cuts
    it: it is read, or refused, always.
    """
    first, second = b"Hello, this is the first part. " * 3, b"And this is the second. " * 3
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = (
        deflate.compress(first)
        + deflate.flush(zlib.Z_SYNC_FLUSH)
        + deflate.compress(second)
        + deflate.flush()
    )
    # what follows the final block refers to what was before it
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY, first + second)
    data += deflate.compress(first) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    assert inflated(data, step) == inflated(data, len(data))


def test_the_window_outlives_a_final_block() -> None:
    """A message that ends with BFINAL ends the DEFLATE stream, not the window: the next message
    may refer to it, and to those before.
    """
    inflater = Inflater(False)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = deflate.compress(NOISE) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    second = deflate.compress(STORY) + deflate.flush(zlib.Z_FINISH) + b"\0"
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY, NOISE + STORY)
    third = deflate.compress(NOISE + STORY) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    assert len(third) < 200
    for data, message in ((first, NOISE), (second, STORY), (third, NOISE + STORY)):
        assert inflater.decompress(data, 1 << 20) + inflater.end_message(1 << 20) == message


def test_the_window_of_tiny_pieces_costs_little_more_than_its_bytes() -> None:
    """A message that arrives in pieces of two bytes makes no object of each: what an inflater
    holds is its window of 32 kB.
    """
    deflate = zlib.compressobj(0, zlib.DEFLATED, -15)
    data = deflate.compress(NOISE * 8) + deflate.flush(zlib.Z_SYNC_FLUSH)
    inflater = Inflater(False)
    parts = [data[at : at + 2] for at in range(0, len(data), 2)]
    tracemalloc.start()
    try:
        for part in parts:
            inflater.decompress(part, 1 << 20)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 250_000


def test_a_window_of_8_bits_compresses_nothing() -> None:
    """zlib has no window of 256 bytes for compressing: such messages are sent as they are."""
    deflater = DeflateAgreement(client_max_window_bits=8).deflater(True, PermessageDeflate())
    assert deflater.min_bytes > 1 << 40


# -------------------------------------------------------------------------------------- on the wire


def send(z: Compression, frame: WebSocketFrame) -> tuple[Frame, bool, int]:
    """Let the library send *frame*; return it as it was received, whether it was compressed, and
    its size without header.
    """
    assert z.peer.process.send_frame(frame) is True
    return z.receive()


@pytest.fixture(params=["server", "client"])
def role(request: pytest.FixtureRequest) -> str:
    """What the library is."""
    value: str = request.param
    return value


def test_messages_get_smaller_on_the_wire(role: str) -> None:
    """A text that repeats itself leaves in a fraction of its size, and again in a few bytes."""
    with open_compressed(role) as z:
        message, was_compressed, first = send(z, WebSocketFrame(focText, STORY))
        assert (message, was_compressed) == (text(STORY), True)
        assert first < len(STORY) / 3
        assert send(z, WebSocketFrame(focText, STORY))[2] < first / 5


def test_what_is_already_compressed_is_left_alone(role: str) -> None:
    """A frame with ``fopAlreadyCompressed`` leaves byte for byte, and does not touch the window."""
    with open_compressed(role) as z:
        first = send(z, WebSocketFrame(focBinary, STORY))[2]
        for asynchronous in (False, True):
            frame = WebSocketFrame(focBinary, STORY, fopAlreadyCompressed)
            sender = z.peer.process.send_frame_async if asynchronous else z.peer.process.send_frame
            assert sender(frame) is True
            assert z.peer.receive() == binary(STORY)
        assert send(z, WebSocketFrame(focBinary, STORY))[2] < first / 5


@pytest.mark.parametrize("least", [0, 64, 500])
def test_messages_below_min_bytes_are_left_alone(role: str, least: int) -> None:
    """``min_bytes`` is the least size that is worth compressing."""
    with open_compressed(role, options={"min_bytes": least}) as z:
        if least:
            assert send(z, WebSocketFrame(focText, "a" * (least - 1))) == (
                text("a" * (least - 1)),
                False,
                least - 1,
            )
        message, was_compressed, _ = send(z, WebSocketFrame(focText, "a" * least))
        assert (message, was_compressed) == (text("a" * least), True)


def test_queued_messages_are_compressed_in_their_order(role: str) -> None:
    """``send_frame_async`` compresses as well, when the frames leave, so that both windows stay in
    step with ``send_frame``.
    """
    with open_compressed(role) as z:
        for number in range(20):
            frame = WebSocketFrame(focText, f"{number} " + "x" * 100)
            assert z.peer.process.send_frame_async(frame) is True
        received = [z.receive() for _ in range(20)]
        assert [message for message, _, _ in received] == [
            text(f"{number} " + "x" * 100) for number in range(20)
        ]
        assert all(was_compressed for _, was_compressed, _ in received)
        assert send(z, WebSocketFrame(focText, STORY))[0] == text(STORY)


def test_threads_that_send_at_once_keep_the_window_in_step(role: str) -> None:
    """Messages of several threads leave in the order in which they were compressed: every one can
    be inflated.
    """
    with open_compressed(role) as z:
        process = z.peer.process

        def run(number: int) -> None:
            for at in range(40):
                process.send_frame(text_frame(f"thread {number} message {at} " + "abc" * 50))
                process.send_frame(WebSocketFrame(focPing, b"p"))

        threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        seen: dict[str, int] = {}
        messages = 0
        while messages < 160:
            frame = z.peer.receive()
            if frame.opcode == 1:
                words = z.inflated(frame).decode().split()
                assert int(words[3]) == seen.get(words[1], -1) + 1
                seen[words[1]] = int(words[3])
                messages += 1
        for thread in threads:
            thread.join(BOUND)


@pytest.mark.parametrize(("level", "better"), [(1, 9)])
def test_the_level_is_the_effort(role: str, level: int, better: int) -> None:
    """A higher level makes smaller messages."""
    sizes = []
    for value in (level, better):
        with open_compressed(role, options={"level": value}) as z:
            sizes.append(send(z, WebSocketFrame(focText, STORY))[2])
    assert sizes[1] < sizes[0]


def test_the_counters_count_what_leaves(role: str) -> None:
    """``frames_in_bytes`` counts the inflated bytes that the application gets."""
    with open_compressed(role) as z:
        z.exchange(text(STORY))
        protocol = z.peer.process.protocol
        assert (protocol.frames_in_count, protocol.frames_in_bytes) == (1, len(STORY))
        assert protocol.compression == DeflateAgreement()


def test_a_broadcast_reaches_connections_with_and_without_compression() -> None:
    """Each receiver gets the message in the form that it agreed to."""
    with echo_server(permessage_deflate=True) as server:
        recorders = [Recorder() for _ in range(4)]
        with contextlib.ExitStack() as stack:
            for number, recorder in enumerate(recorders):
                client = connect(server.port, recorder.frame, permessage_deflate=bool(number % 2))
                stack.callback(client.free)
            assert server.websocket_broadcast(WebSocketFrame(focText, STORY)) == 4
            assert server.websocket_broadcast(WebSocketFrame(focText, STORY)) == 4
            for recorder in recorders:
                recorder.wait("focText", 2)
                assert recorder.texts() == [STORY.decode()] * 2


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize("client_side", [False, True])
def test_it_is_used_when_both_sides_of_the_library_want_it(
    server_side: bool, client_side: bool
) -> None:
    """Whoever switches it on offers or accepts; only both together compress, and messages pass in
    any case.
    """
    recorder = Recorder()
    with (
        echo_server(permessage_deflate=server_side) as server,
        connect(server.port, recorder.frame, permessage_deflate=client_side) as client,
    ):
        assert client.websockets is not None
        assert (client.websockets.protocol.compression is not None) is (server_side and client_side)
        assert client.websockets.send_frame(WebSocketFrame(focText, STORY)) is True
        assert recorder.wait("focText").value.payload == STORY


def test_the_frame_that_was_sent_is_not_changed(role: str) -> None:
    """The application's frame is its own: it can be sent again, and compared."""
    with open_compressed(role) as z:
        frame = WebSocketFrame(focText, STORY)
        for _ in range(2):
            send(z, frame)
            assert frame == WebSocketFrame(focText, STORY)


def test_a_reconnection_negotiates_anew() -> None:
    """The next connection may have other parameters, or none, and starts with empty windows."""
    answers = iter([f"{PMD}; client_no_context_takeover", None, PMD])
    raw_side: list[tuple[bool, bytes]] = []

    def behaviour(peer: RawServerPeer) -> None:
        head = peer.read_head()
        assert PMD in head.headers["sec-websocket-extensions"]
        peer.send(peer.answer(head, Sec_WebSocket_Extensions=next(answers)))
        data = b""
        while len(data) < 8:
            data += peer.receive()
        raw_side.append((bool(data[0] & 0x40), data))

    with (
        RawServer(behaviour, behaviour, behaviour) as raw,
        ReconnectingClient(raw.port, permessage_deflate=True) as reconnecting,
    ):
        for number in range(3):
            if number:
                reconnecting.wait_reconnected(number)
            compression = reconnecting.process.protocol.compression
            assert (
                compression
                == [DeflateAgreement(client_no_context_takeover=True), None, DeflateAgreement()][
                    number
                ]
            )
            assert reconnecting.process.send_frame(text_frame("a" * 1000)) is True
            reconnecting.recorder.wait("focConnectionClose", number + 1)
            if number < 2:
                reconnecting.process.reconnect_now()
        reconnecting.client.websockets.client_thread.terminate()  # type: ignore[union-attr]
    assert [was_compressed for was_compressed, _ in raw_side] == [True, False, True]


# ------------------------------------------------------------------------------------ foreign peers

CLIENT_FACTORIES: dict[str, Callable[[], ClientPerMessageDeflateFactory]] = {
    "defaults": ClientPerMessageDeflateFactory,
    "no context": lambda: ClientPerMessageDeflateFactory(True, True),
    "9 bits": lambda: ClientPerMessageDeflateFactory(False, False, 9, 9),
    "all": lambda: ClientPerMessageDeflateFactory(True, True, 10, 12),
    "no client bits": lambda: ClientPerMessageDeflateFactory(client_max_window_bits=None),
}
OURS = {
    "defaults": PermessageDeflate(),
    "no context": PermessageDeflate(True, True),
    "9 bits": PermessageDeflate(False, False, 9, 9),
}
CONVERSATION: list[str | bytes] = [
    "",
    "short",
    STORY.decode(),
    STORY,
    NOISE,
    "€😀" * 500,
    STORY.decode(),
    b"x" * 100_000,
]


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("theirs", CLIENT_FACTORIES)
def test_the_client_of_websockets_compresses_with_our_server(theirs: str, ours: str) -> None:
    """The sync client of ``websockets`` agrees with our server on every set of parameters, and
    understands it.
    """
    with (
        echo_server(permessage_deflate=OURS[ours]) as server,
        foreign_connect(
            f"ws://{HOST}:{server.port}/",
            subprotocols=["echo"],  # type: ignore[list-item]
            compression=None,
            extensions=[CLIENT_FACTORIES[theirs]()],
        ) as foreign,
    ):
        assert foreign.response is not None
        assert foreign.response.headers["Sec-WebSocket-Extensions"].startswith(PMD)
        for message in CONVERSATION:
            foreign.send(message)
            assert foreign.recv(timeout=BOUND) == message
        foreign.send([STORY.decode()[:100], STORY.decode()[100:]])  # a fragmented message
        assert foreign.recv(timeout=BOUND) == STORY.decode()


SERVER_FACTORIES: dict[str, Callable[[], ServerPerMessageDeflateFactory]] = {
    "defaults": ServerPerMessageDeflateFactory,
    "no context": lambda: ServerPerMessageDeflateFactory(True, True),
    "9 bits": lambda: ServerPerMessageDeflateFactory(False, False, 9, 9),
    "all": lambda: ServerPerMessageDeflateFactory(
        True, True, 10, 12, require_client_max_window_bits=True
    ),
}


@contextlib.contextmanager
def foreign_server(factory: ServerPerMessageDeflateFactory, answers: list[str]) -> Iterator[int]:
    """Give the port of an echo server of ``websockets``; the extensions that it agreed to go to
    *answers*.
    """

    def handler(connection: ServerConnection) -> None:
        assert connection.response is not None
        answers.append(connection.response.headers.get("Sec-WebSocket-Extensions", ""))
        for message in connection:
            connection.send(message)

    subprotocols: Any = ["echo"]
    with serve_foreign(
        handler, subprotocols=subprotocols, compression=None, extensions=[factory]
    ) as port:
        yield port


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("theirs", SERVER_FACTORIES)
def test_our_client_compresses_with_the_server_of_websockets(theirs: str, ours: str) -> None:
    """Our client agrees with the sync server of ``websockets`` on every set of parameters, and
    understands it.
    """
    recorder = Recorder()
    answers: list[str] = []
    with (
        foreign_server(SERVER_FACTORIES[theirs](), answers) as port,
        connect(port, recorder.frame, permessage_deflate=OURS[ours]) as client,
    ):
        process = client.websockets
        assert process is not None
        assert process.protocol.compression is not None
        for number, message in enumerate(CONVERSATION, start=1):
            frame = WebSocketFrame(focText if isinstance(message, str) else focBinary, message)
            assert process.send_frame(frame) is True
            received = recorder.wait(
                frame.opcode.name, sum(type(m) is type(message) for m in CONVERSATION[:number])
            )
            assert received.value == frame
        assert answers[0].startswith(PMD)


def test_a_client_that_refuses_the_answer_is_told_why() -> None:
    """An answer that does not meet our limits is an error text, and the connection is closed."""
    with (
        RawServer(
            lambda peer: peer.send(peer.answer(peer.read_head(), Sec_WebSocket_Extensions=PMD))
        ) as raw,
        new_client(
            raw.port, permessage_deflate=PermessageDeflate(server_max_window_bits=10)
        ) as client,
    ):
        error = client.websockets_upgrade("", "", protocol=WebSocketProtocolChat("echo"))
        assert error.startswith("Invalid HTTP Upgrade ProcessHandshake")
        assert "window" in error


def test_parameters_of_the_suite_are_those_of_the_library() -> None:
    """The conformance suite's parameters and ours have the same names, in the same order."""
    names = list(vars(Parameters()))
    assert list(vars(DeflateAgreement())) == names
    assert list(vars(PermessageDeflate()))[:4] == names


@pytest.mark.parametrize("no_context", [False, True])
def test_contexts_exist_from_the_first_message_and_only_as_long_as_needed(no_context: bool) -> None:
    """A connection without traffic has none; without takeover there is none between messages."""
    deflater, inflater = Deflater(15, no_context, PermessageDeflate()), Inflater(no_context)
    assert deflater._zlib is None
    assert inflater._zlib is None
    for message in (b"hello " * 50, b"world " * 5_000):
        received = inflater.decompress(deflater.compress(message), 1 << 20)
        assert received + inflater.end_message(1 << 20) == message
        assert (deflater._zlib is None) is no_context
        assert (inflater._zlib is None) is no_context
        assert (inflater._window == b"") is no_context
