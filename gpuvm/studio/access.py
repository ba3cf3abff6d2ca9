"""Who may use the page: whoever has the token of the address that was printed.

An ASGI middleware around all of it, Gradio's own routes included.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PARAMETER: Final = "token"
REFUSED: Final = b"This page opens at the address that 'gpuvm studio' printed, with its token.\n"
_SOURCES: Final = {
    "default-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "frame-ancestors": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
POLICY: Final = "; ".join(f"{kind} {sources}" for kind, sources in _SOURCES.items())
"""Whatever a page of Gradio's would fetch from elsewhere, it cannot."""
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guarded:
    """Answers 403 to every request without the token, in the address or then in a cookie.

    Also to one from a page of another origin, and to one that would make Gradio fetch an address
    for the browser.
    """

    def __init__(self, app: App, token: str, port: int) -> None:
        self._app, self._token = app, token
        # Cookies of one host are shared by its ports: two studios must not log each other out.
        self._cookie = f"gpuvm-studio-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if scope["type"] != "http" or not self._allowed(scope, headers):
            await _refuse(scope, send)
        elif self._in_address(scope):
            await self._log_in(send)
        else:
            await self._app(scope, receive, _with_headers(send))

    def _allowed(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            return False
        if "://" in scope["path"]:
            return False
        return self._in_address(scope) or self._in_cookie(headers)

    def _in_address(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get(PARAMETER, [""])[0]
        return scope["path"] == "/" and self._is_token(given)

    def _in_cookie(self, headers: dict[bytes, bytes]) -> bool:
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        return self._cookie in cookies and self._is_token(cookies[self._cookie].value)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())

    async def _log_in(self, send: Send) -> None:
        """To the page itself: the token does not stay in the address, or in the history."""
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"
        where = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
        await _answer(send, 303, b"", [*where, *HEADERS])


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, 403, REFUSED, [(b"content-type", b"text/plain; charset=utf-8")])


async def _answer(
    send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return sending
