"""What stands before the page: who may ask it, and how much may be sent to it."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI application before another.

    It answers only requests that name this machine: with the name of a page elsewhere that was made to point
    here (DNS rebinding) they are refused, as are those that a page from elsewhere sends. Names are what the
    page is bound to and localhost; the machine's own, which a network may have given it, only where others
    reach the page. Addresses all pass: rebinding needs a name, and behind a tunnel or a container's port the
    page does not know by which address it is reached. Bodies must say how long they are, end within `largest`
    bytes, and arrive without pauses of more than `patience` seconds.
    """

    def __init__(self, app: App, *, host: str, largest: int, patience: float = 30.0) -> None:
        self.app, self.largest, self.patience = app, largest, patience
        names = [host, "localhost"]
        if not _is_loopback(host):
            names += [socket.gethostname(), socket.getfqdn()]
        self.names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what may be asked, and answers the rest with a line."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(scope, send, *refusal)
            return
        if scope["type"] == "websocket" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        answered = False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal answered
            answered = True
            await send(message)

        async def patiently() -> MutableMapping[str, Any]:
            return await asyncio.wait_for(receive(), self.patience)

        try:
            await self.app(scope, patiently, watched)
        except TimeoutError:
            if not answered:
                await _refuse(scope, send, 408, "the upload stopped")
        except Exception:  # whatever a form that no browser sends makes of the page's own code
            if answered:
                raise
            await _refuse(scope, send, 400, "this is no upload of the page's")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, if it is refused."""
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_here(host):
            return 421, "this page is not called so"
        try:
            foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        except ValueError:  # an address that is none
            foreign = True
        if foreign:
            return 403, "this page answers no others"
        if scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH"):
            length = headers.get("content-length", "")
            if not length.isdecimal() or len(length) > 18:
                return 411, "an upload must say how long it is"
            if int(length) > self.largest:
                return 413, f"uploads of up to {self.largest // 2**20} MiB, please"
        return None

    def _is_here(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    body = f"{reason}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
