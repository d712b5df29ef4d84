"""A REST peer that shares nothing with the library: ``python -m tests.support.rest_peer
server|client KIND KEY PLAIN|SYNLZ [PORT]``.

It was written from the description of the wire alone, one function for each of its rules, as
plainly as they are stated, and stands for a native end. As a server it prints its port. It then
does what the lines on its standard input say: ``{"ask": [method, url, headers, noanswer, type,
content]}`` sends a request (the content in hexadecimal) and prints what was answered. Requests of
the other side it answers with themselves. Each message that it receives it encodes again; ``same``
says whether that gave the bytes that came.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import struct
import sys
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Fields = list[Any]

# --------------------------------------------------------------------------------------- CRC, SynLZ


def crc32c(data: bytes) -> int:
    """Bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def hash_at(data: bytes | bytearray, p: int) -> int:
    v = data[p] | data[p + 1] << 8 | data[p + 2] << 16
    return (v >> 12 ^ v) & 0xFFF


def pack(data: bytes) -> bytes:
    size = len(data)
    out = bytearray(
        struct.pack("<H", size)
        if size < 32768
        else struct.pack("<HH", 0x8000 | size & 0x7FFF, size >> 15)
    )
    if not size:
        return bytes(out)
    table: dict[int, int] = {}
    control, items, word_at = 0, 0, len(out)
    out += bytes(4)
    p = 0

    def item(is_match: bool) -> None:
        nonlocal control, items, word_at
        control |= is_match << items
        items += 1
        out[word_at : word_at + 4] = struct.pack("<I", control)
        if items == 32:
            control, items, word_at = 0, 0, len(out)
            out.extend(bytes(4))

    while p < size:
        if p <= size - 11:
            h = hash_at(data, p)
            o = table.get(h)
            table[h] = p
            if o is not None and data[o : o + 3] == data[p : p + 3] and p - o > 2:
                limit = min(size - 1 - (p + 2), 271)
                t = 1
                while t < limit and data[o + 2 + t] == data[p + 2 + t]:
                    t += 1
                out += (
                    struct.pack("<H", h << 4 | t) if t <= 15 else struct.pack("<HB", h << 4, t - 16)
                )
                p += t + 2
                item(True)
                continue
        out.append(data[p])
        p += 1
        item(False)
    return bytes(out)


def unpack(stream: bytes) -> bytes:
    (size,) = struct.unpack_from("<H", stream)
    at = 2
    if size & 0x8000:
        size, at = size & 0x7FFF | struct.unpack_from("<H", stream, 2)[0] << 15, 4
    out, table, hashed = bytearray(), {}, -1
    while at < len(stream):
        (control,) = struct.unpack_from("<I", stream, at)
        at += 4
        for bit in range(32):
            if at >= len(stream):
                break
            if not control >> bit & 1:
                out.append(stream[at])
                at += 1
                if hashed < len(out) - 3:
                    hashed += 1
                    table[hash_at(out, hashed)] = hashed
                continue
            (word,) = struct.unpack_from("<H", stream, at)
            at += 2
            length = (word & 15) + 2
            if length == 2:
                length = stream[at] + 18
                at += 1
            o, start = table[word >> 4], len(out)
            for step in range(length):
                out.append(out[o + step])
            while hashed < start:
                hashed += 1
                table[hash_at(out, hashed)] = hashed
            hashed = len(out) - 1
    assert len(out) == size
    return bytes(out)


def contain(data: bytes, stored: bool) -> bytes:
    if not data:
        return b""
    body, marker = data, 0
    if not stored and len(data) >= 450:
        packed = pack(data)
        if len(packed) < len(data):
            body, marker = packed, 1
    return struct.pack("<IBI", crc32c(data), marker, crc32c(body)) + body


def release(container: bytes) -> bytes:
    if len(container) <= 9:
        return b""
    crc, marker, crc_of_body = struct.unpack_from("<IBI", container)
    body = container[9:]
    assert crc32c(body) == crc_of_body
    data = unpack(body) if marker == 1 else body
    assert crc32c(data) == crc
    return data


# ---------------------------------------------------------------------------------------------- AES


def key_of(password: str) -> bytes:
    secret, t, k = password.encode(), b"E750ACCA-2C6F-4B0E-999B-D31C9A14EFAB", bytes(32)
    for _ in range(1024):
        t = hashlib.sha3_256(secret + t).digest()
        k = bytes(a ^ b for a, b in zip(k, t, strict=True))
    return k[:16]


def encrypt(key: bytes, plain: bytes, iv: bytes) -> bytes:
    count = 16 - len(plain) % 16
    return iv + Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(
        plain + bytes([count]) * count
    )


def decrypt(key: bytes, message: bytes) -> bytes:
    assert len(message) >= 32
    assert len(message) % 16 == 0
    plain = Cipher(algorithms.AES(key), modes.CTR(message[:16])).decryptor().update(message[16:])
    assert 1 <= plain[-1] <= 16
    return plain[: -plain[-1]]


# ----------------------------------------------------------------------------------------- messages


def counts_as_json(kind: str) -> bool:
    kind = kind.lower()
    if kind.startswith("application/"):
        return kind.startswith("application/json") or "+json" in kind
    return kind.endswith("/json")


def type_sent(kind: str, content: bytes) -> str:
    return "" if not content or counts_as_json(kind) else kind


def quote(text: bytes) -> bytes:
    short = {8: b"\\b", 9: b"\\t", 10: b"\\n", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}
    return (
        b'"'
        + b"".join(short.get(c) or (b"\\u%04X" % c if c < 32 else bytes([c])) for c in text)
        + b'"'
    )


def to_json(head: str, fields: Fields, kind: str, content: bytes) -> bytes:
    """*content* of another type than JSON goes as text when it is UTF-8, else as base64. (What the
    tests send is clear in this.)
    """
    kind = type_sent(kind, content)
    if not content:
        body = b'""'
    elif not kind:
        body = content
    else:
        try:
            content.decode()
            body = quote(content)
        except ValueError:
            body = b'"' + "\ufff0".encode() + base64.b64encode(content) + b'"'
    items = [str(f).encode() if isinstance(f, int) else quote(f.encode()) for f in fields]
    return b'{"' + head.encode() + b'":[' + b",".join([*items, quote(kind.encode()), body]) + b"]}"


def from_json(payload: bytes) -> tuple[str, Fields, str, bytes]:
    """By the standard library. The raw text of the last item is what stands before ``]}``."""
    [(head, items)] = json.loads(payload).items()
    *fields, kind, content = items
    if kind:
        body: bytes = (
            base64.b64decode(content[1:]) if content.startswith("\ufff0") else content.encode()
        )
        return head, fields, kind, body
    before = to_json(head, fields, "", b"")[: -len(b'""]}')]
    assert payload.startswith(before)
    raw = payload[len(before) : -2]
    return head, fields, "application/json", b"" if raw == b'""' else raw


def varuint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def read_varuint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def to_binary(head: str, fields: Fields, kind: str, content: bytes) -> bytes:
    items = [str(f).encode() for f in [*fields, type_sent(kind, content)]]
    return head.encode() + b"\1" + b"".join(varuint(len(i)) + i for i in items) + content


def from_binary(plain: bytes) -> tuple[str, Fields, str, bytes]:
    head, _, _ = plain.partition(b"\1")
    at, items = len(head) + 1, []
    for _ in range(5 if head[:1] == b"r" else 3):
        size, at = read_varuint(plain, at)
        items.append(plain[at : at + size].decode())
        at += size
    content = plain[at:]
    *fields, kind = items
    number = 3 if head[:1] == b"r" else 0
    fields[number] = int(fields[number])
    return head.decode(), fields, kind or ("application/json" if content else ""), content


# ----------------------------------------------------------------------------------- the connection


class Peer:
    """One connection, either side of it."""

    def __init__(self, kind: str, key: str, compress: bool) -> None:
        self.kind, self.compress = kind, compress
        self.key = key_of(key) if key and kind != "synopsejson" else b""
        self.sock = socket.socket()
        self.is_client = False
        self.sequence = 0
        self.unread = b""
        self.heard: list[Any] = []

    # -------------------------------------------------------------------------------------- upgrade

    def connect(self, port: int) -> None:
        self.is_client = True
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        key = base64.b64encode(os.urandom(16)).decode()
        names = "synopsebin, synopsebinary" if self.kind == "synopsebin" else self.kind
        lines = (
            *(
                "GET /root HTTP/1.1",
                f"Host: 127.0.0.1:{port}",
                "Accept: */*",
                "User-Agent: peer",
                "Content-Length: 0",
            ),
            *(
                "Connection: Upgrade",
                "Upgrade: websocket",
                f"Sec-WebSocket-Key: {key}",
                "Sec-WebSocket-Version: 13",
            ),
            *(f"Sec-WebSocket-Protocol: {names}", "", ""),
        )
        self.sock.sendall("\r\n".join(lines).encode())
        answer = self._head()
        assert answer[0] == "HTTP/1.1 101 Switching Protocols", answer
        assert [line.split(":")[0] for line in answer[1:]] == [
            *(
                "Upgrade",
                "Connection",
                "Sec-WebSocket-Connection-ID",
                "Sec-WebSocket-Protocol",
                "Sec-WebSocket-Accept",
            )
        ], answer
        assert answer[4] == f"Sec-WebSocket-Protocol: {self.kind}"

    def accept(self, listener: socket.socket) -> None:
        self.sock, _ = listener.accept()
        self.sock.settimeout(30)
        asked = dict(line.split(": ", 1) for line in self._head()[1:])
        offered = asked["Sec-WebSocket-Protocol"]
        assert offered == (
            "synopsejson" if self.kind == "synopsejson" else "synopsebin, synopsebinary"
        )
        digest = hashlib.sha1(
            (asked["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()
        ).digest()
        lines = (
            *("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"),
            *("Sec-WebSocket-Connection-ID: 1", f"Sec-WebSocket-Protocol: {self.kind}"),
            *(f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}", "", ""),
        )
        self.sock.sendall("\r\n".join(lines).encode())

    def _head(self) -> list[str]:
        while b"\r\n\r\n" not in self.unread:
            self._more()
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        return head.decode().split("\r\n")

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self.unread += data

    def _take(self, size: int) -> bytes:
        while len(self.unread) < size:
            self._more()
        data, self.unread = self.unread[:size], self.unread[size:]
        return data

    # --------------------------------------------------------------------------------------- frames

    def send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        first = bytes([0x80 | opcode])
        masked = 128 * self.is_client
        if size < 126:
            head = first + bytes([masked | size])
        elif size < 65536:
            head = first + bytes([masked | 126]) + struct.pack(">H", size)
        else:
            head = first + bytes([masked | 127]) + struct.pack(">Q", size)
        if masked:
            mask = os.urandom(3) + b"\1"
            head += mask
            payload = bytes(c ^ mask[i & 3] for i, c in enumerate(payload))
        self.sock.sendall(head + payload)

    def receive(self) -> tuple[int, bytes]:
        first, second = self._take(2)
        assert first & 0xF0 == 0x80
        assert bool(second & 128) is not self.is_client
        size = second & 127
        if size > 125:
            (size,) = struct.unpack(
                ">H" if size == 126 else ">Q", self._take(2 if size == 126 else 8)
            )
        mask = b"" if self.is_client else self._take(4)
        payload = self._take(size)
        return first & 15, bytes(
            c ^ mask[i & 3] for i, c in enumerate(payload)
        ) if mask else payload

    def wrap(self, plain: bytes, iv: bytes, stored: bool = False) -> bytes:
        if self.compress:
            plain = contain(plain, stored)
        return encrypt(self.key, plain, iv) if self.key else plain

    def say(self, head: str, fields: Fields, kind: str, content: bytes) -> None:
        if self.kind == "synopsejson":
            self.send(1, to_json(head, fields, kind, content))
        else:
            self.send(2, self.wrap(to_binary(head, fields, kind, content), os.urandom(16)))

    def hear(self) -> tuple[str, Fields, str, bytes]:
        """Return the next message; answer requests on the way, pings too."""
        while True:
            if not self.heard:
                opcode, payload = self.receive()
                if opcode == 9:
                    self.send(10, payload)
                elif opcode == 8:
                    self.send(8, payload)
                    raise EOFError
                elif opcode == 1:
                    message = from_json(payload)
                    self.heard.append((message, to_json(*message) == payload or payload))
                else:
                    self._take_apart(payload)
                continue
            (head, fields, kind, content), same = self.heard.pop(0)
            if head[0] == "a":
                return head, fields, kind, content
            method, url, headers, no_answer = fields
            tell(request=[method, url, headers, no_answer, kind, content.hex()], same=same is True)
            if not no_answer:
                answer = "answer" if head[2] in "qQ" else "a" + head[1:]
                self.say(answer, [200, f"X-Method: {method or 'POST'}"], kind, content)

    def _take_apart(self, payload: bytes) -> None:
        plain = decrypt(self.key, payload) if self.key else payload
        if self.compress:
            plain = release(plain)
        frames = [plain]
        if plain.startswith(b"frames\1"):
            last, at = read_varuint(plain, 7)
            frames = []
            for _ in range(last + 1):
                size, at = read_varuint(plain, at)
                frames.append(plain[at : at + size])
                at += size
            assert at == len(plain)
            tell(jumbo=last + 1)
        messages = [from_binary(frame) for frame in frames]
        # an image is not compressed once more; here they all are JPEG
        stored = len(frames) == 1 and messages[0][2] == "image/jpeg"
        same_payload = self.wrap(plain, payload[:16], stored) == payload
        for frame, message in zip(frames, messages, strict=True):
            self.heard.append((message, same_payload and to_binary(*message) == frame))

    def ask(
        self, method: str, url: str, headers: str, no_answer: int, kind: str, content: bytes
    ) -> None:
        head, expected = "request", "answer"
        if self.kind == "synopsebin":
            self.sequence += 1
            head, expected = f"r{self.sequence:06x}", f"a{self.sequence:06x}"
        self.say(head, ["" if method == "POST" else method, url, headers, no_answer], kind, content)
        if no_answer:
            tell(sent=True)
            return
        answered, (status, out_headers), out_kind, out_content = self.hear()
        assert answered == expected
        tell(answer=[status, out_headers, out_kind, out_content.hex()])

    def ask_batch(self, count: int) -> None:
        """Requests without answer in one jumbo frame."""
        frames = [
            to_binary(f"r{n:06x}", ["", f"batch/{n}", "X: y", 1], "", b"") for n in range(count)
        ]
        plain = b"frames\1" + varuint(count - 1) + b"".join(varuint(len(f)) + f for f in frames)
        self.send(2, self.wrap(plain, os.urandom(16)))
        tell(sent=True)


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    role, kind, key, form = sys.argv[1:5]
    peer = Peer(kind, key, form == "synlz")
    if role == "client":
        peer.connect(int(sys.argv[5]))
        tell(ready=True)
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            tell(port=listener.getsockname()[1])
            peer.accept(listener)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if "ask" in command:
                *fields, content = command["ask"]
                peer.ask(*fields, bytes.fromhex(content))
            elif "batch" in command:
                peer.ask_batch(command["batch"])
            else:
                peer.hear()
        except EOFError:
            tell(closed=True)
            break
    peer.sock.close()


if __name__ == "__main__":
    main()
