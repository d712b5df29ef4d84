"""Replays conversations of native programs: as the native client, and as the native server.

The sessions of the replay are other ones, so what depends on them is computed here, from the
specification and not by the library.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mormot_ws import HttpServerRequest
from mormot_ws.services.values import load_native_json

from . import BOUND, HOST

DATA = Path(__file__).parent.parent / "data" / "service_conversations.json"
CONVERSATIONS: list[dict[str, Any]] = json.loads(DATA.read_text("utf-8"))["conversations"]
SIGNED = re.compile(r"[?&]session_signature=[0-9a-f]+$")
PASSWORDS = {"tester": "pass-word", "scram": "scr-word", "mcfuser": "mcf-word"}

#: where our answers differ from native ones on purpose: (part of a title, reason)
DIFFERENCES = {
    "Text of errors": "it says the same in other words, and never whether a user exists",
    "Contract": "'*' is published unless one is given; every native client accepts it",
    "Midnight": "written with its time, as other readers take a mere date for UTC",
    "End of HttpBasic": "the session ends; a native server answers 400 and keeps it",
}


def body_of(step: dict[str, Any]) -> bytes:
    """Return the content of a step."""
    if "base64" in step:
        return base64.b64decode(step["base64"])
    return str(step.get("body", "")).encode("utf-8")


def value_of(content: bytes | str, kind: str) -> Any:
    """Return content in a form that can be compared."""
    content = content.encode() if isinstance(content, str) else bytes(content)
    if content in (b"", b'""'):
        return None
    if kind not in ("", "application/json"):
        return content
    text = re.sub(r'("\d{4}-\d\d-\d\d)T00:00:00"', r'\1"', content.decode("utf-8"))
    return load_native_json(text.encode("utf-8"))


class Signer:
    """Signs as a native client does."""

    def __init__(self, scheme: str, password: str) -> None:
        self.scheme = scheme
        self._password = password
        self.id = 0
        self.key = 0
        self.cookie = ""
        self.nonce = ""
        self.hashed = ""

    def url(self, url: str) -> str:
        """Return a captured *url* for the session of now."""
        url = re.sub(r"session=\d+", f"session={self.id}", url)
        if "clientnonce=" in url:
            user = unquote(re.search("username=([^&]*)", url)[1])  # type: ignore[index]
            client_nonce = re.search("clientnonce=([^&]*)", url)[1]  # type: ignore[index]
            root = url.partition("/")[0]
            password = self._password or PASSWORDS.get(user, "wrong")
            self.hashed = hashlib.sha256(f"salt{password}".encode()).hexdigest()
            text = f"{root}{self.nonce}{client_nonce}{user}{self.hashed}"
            proof = hashlib.sha256(text.encode()).hexdigest()
            return re.sub("password=[^&]*", f"password={proof}", url)
        match = SIGNED.search(url)
        if match is None:
            return url
        url = url[: match.start()]
        signature = f"{self.id:08x}"
        if self.scheme == "default":
            moment = f"{int(time.monotonic() * 1000) >> 8:08x}"
            number = zlib.crc32(url.encode(), zlib.crc32(moment.encode(), self.key))
            signature += f"{moment}{number:08x}"
        return f"{url}{match[0][0]}session_signature={signature}"

    def learn(self, url: str, status: int, answer: Any, headers: str) -> None:
        """Look at the answer to a request for a session."""
        if "/auth" not in url or status != 200 or not isinstance(answer, dict):
            return
        result = answer["result"]
        if "logonname" not in answer:
            self.nonce = result
            return
        self.id = int(str(result).partition("+")[0])
        self.key = zlib.crc32(self.hashed.encode(), zlib.crc32(str(result).encode()))
        match = re.search("Set-Cookie: ([^;]*)", headers)
        self.cookie = match[1] if match else ""

    def headers(self, headers: str) -> str:
        """Return captured *headers* for the session of now."""
        return re.sub(r"Cookie: [^\r\n]*", f"Cookie: {self.cookie}", headers)


def differs(title: str, step: dict[str, Any], answer: tuple[int, str, Any], signer: Signer) -> str:
    """Return how an *answer* (status, type, value) differs from the native one; '' if it does not
    or only as :data:`DIFFERENCES` says.
    """
    status, kind, value = answer
    url = step["request"]["url"]
    native = step["status"]
    if native == 400 and "HttpBasic" in title and "session=" in url:
        return "" if status == 200 else f"status {status}, not 200"
    if status != native:
        return f"status {status}, not {native}"
    if status >= 400 and "custom status" not in title:
        return ""
    wanted = value_of(body_of(step), step.get("type", ""))
    if not step.get("http") and step.get("type", "").partition(";")[0] != (
        "" if kind == "application/json" or value is None else kind.partition(";")[0]
    ):
        return f"type {kind!r}"
    if url.endswith("timestamp"):
        return "" if re.fullmatch(rb"\d{12}", value) else "no time"
    if url.endswith("stat/soa") or "/auth" in url:
        return _list_differs(value, wanted)
    if isinstance(wanted, dict) and wanted.get("id", 0) > 1_000:
        wanted["id"] = signer.id
    return "" if value == wanted else f"{value!r}, not {wanted!r}"


def _list_differs(value: Any, wanted: Any) -> str:
    if isinstance(wanted, dict):
        missing = wanted.keys() - value.keys() - {"proof", "mcf"}
        if missing:
            return f"lacks {missing}"
        value, wanted = value.get("soa"), wanted.get("soa")
    if wanted is None or not isinstance(wanted, list):
        return ""
    kinds = dict(zip(wanted[::3], wanted[2::3], strict=True))
    found = dict(zip(value[::3], value[2::3], strict=True))
    return "" if kinds.items() <= found.items() else f"{found}, not {kinds}"


def plain_request(port: int, step: dict[str, Any], url: str) -> tuple[int, str, bytes]:
    """Send a step by plain HTTP; return (status, type, content)."""
    connection = http.client.HTTPConnection(HOST, port, timeout=BOUND)
    try:
        body = body_of(step)
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(step["method"], url, body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read()
    finally:
        connection.close()


def answer_with(ctxt: HttpServerRequest, step: dict[str, Any]) -> int:
    """Put a captured answer into *ctxt*."""
    ctxt.out_content = body_of(step)
    ctxt.out_content_type = step.get("type", "application/json")
    ctxt.out_custom_headers = step.get("headers", "")
    status: int = step["status"]
    return status
