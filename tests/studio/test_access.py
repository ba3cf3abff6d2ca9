"""The token, asked for by every request."""

import asyncio
from typing import Any

import pytest

from gpuvm.errors import BadInput, PreflightRefused
from gpuvm.studio.access import POLICY, Guarded
from gpuvm.studio.server import check_installed, open_socket


async def page(scope: Any, receive: Any, send: Any) -> None:
    """Answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(
    path: str = "/", query: str = "", kind: str = "http", **headers: str
) -> tuple[Any, dict[str, str]]:
    """The status and the headers of the answer; of a web socket how it was closed."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(Guarded(page, "right", 7860)(scope, None, send))  # type: ignore[arg-type]
    first = sent[0]
    found = {name.decode(): value.decode() for name, value in first.get("headers", ())}
    return first.get("status", first.get("code")), found


HERE = {"host": "127.0.0.1:7860"}
COOKIE = HERE | {"cookie": "gpuvm-studio-7860=right"}


def test_the_token_of_the_address_becomes_a_cookie() -> None:
    status, headers = ask(query="token=right", **HERE)
    assert (status, headers["location"]) == (303, "/")
    assert headers["set-cookie"] == "gpuvm-studio-7860=right; Path=/; HttpOnly; SameSite=Lax"
    status, headers = ask("/gradio_api/upload", **COOKIE)
    assert status == 200
    assert headers["content-security-policy"] == POLICY
    assert "http" not in POLICY, "nothing from another host"


@pytest.mark.parametrize(
    ("path", "query", "headers"),
    [
        ("/", "", HERE),
        ("/", "token=wrong", HERE),
        ("/", "token=", HERE),
        ("/config", "token=right", HERE),
        ("/", "", HERE | {"cookie": "gpuvm-studio-7860=wrong"}),
        ("/", "", HERE | {"cookie": "gpuvm-studio-7861=right"}),
        ("/", "", HERE | {"cookie": "\xff;=;gpuvm"}),
        ("/", "", COOKIE | {"origin": "http://127.0.0.1:8000"}),
        ("/gradio_api/file=http://10.0.0.1/", "", COOKIE),
    ],
)
def test_refused(path: str, query: str, headers: dict[str, str]) -> None:
    assert ask(path, query, **headers)[0] == 403


def test_the_page_itself_may_post() -> None:
    assert ask("/", **COOKIE, origin="http://127.0.0.1:7860")[0] == 200


def test_no_web_socket() -> None:
    assert ask("/", "", "websocket", **COOKIE)[0] == 1008


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(PreflightRefused) as caught:
        check_installed()
    assert "pip install 'gpuvm[studio]'" in str(caught.value.hint)


def test_a_port_that_is_taken() -> None:
    listener, address = open_socket("127.0.0.1", 0)
    with listener:
        assert address.loopback
        assert address.url == f"http://127.0.0.1:{address.port}/?token={address.token}"
        with pytest.raises(BadInput, match="port"):
            open_socket("127.0.0.1", address.port)
