"""Serves the page until Ctrl-C."""

import importlib.util
import ipaddress
import logging
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpuvm.errors import BadInput, PreflightRefused
from gpuvm.studio.access import PARAMETER, Guarded
from gpuvm.studio.jobs import Queue
from gpuvm.studio.site import Site

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 7860
CLOSE_S: Final = 2
"""How long the browser's open connections may delay the end."""
QUIET: Final = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Gradio reads these when it is imported: it asks nobody for anything."""


@dataclass(frozen=True)
class Address:
    """Where the page is; ``url`` has the token."""

    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?{PARAMETER}={self.token}"

    @property
    def loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def check_installed() -> None:
    """Raises PreflightRefused if the extra ``studio`` is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise PreflightRefused(
            "the studio's page needs Gradio, which is not installed here",
            hint="pip install 'gpuvm[studio]', or '.[studio]' in gpuvm's source folder",
        )


def open_socket(host: str, port: int | None) -> tuple[socket.socket, Address]:
    """Without a port, the usual one or a free one. Raises BadInput."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in (port,) if port is not None else (PORT, 0):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen()
        except OSError as error:
            listener.close()
            why = error.strerror or str(error)
        else:
            bound = listener.getsockname()[1]
            return listener, Address(host, bound, secrets.token_urlsafe(24))
    raise BadInput(f"cannot open {host} port {port or PORT}: {why}", hint="use another --port")


def serve(
    listener: socket.socket,
    address: Address,
    queue: Queue,
    site: Site | None,
    ready: Callable[[], None],
    complete: Callable[[str], str],
) -> None:
    """Returns after Ctrl-C or SIGTERM, when all pictures have ended. ``ready`` is called once the
    page can be opened; ``complete`` adds to the commands in a text what they need.
    """
    with tempfile.TemporaryDirectory(prefix="gpuvm-studio-") as folder:
        os.environ.update(QUIET | {"GRADIO_TEMP_DIR": folder})
        # Only now: Gradio takes seconds to import, and reads its environment then.
        import uvicorn  # noqa: PLC0415

        from gpuvm.studio.page import application  # noqa: PLC0415

        page = application(queue, site, Path(folder), complete)
        app = Guarded(page, address.token, address.port)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=CLOSE_S, ws="none"
        )
        server = uvicorn.Server(config)
        # At its end it would log, with a traceback, each connection that a browser keeps open.
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        # Uvicorn raises the signal that ended it again, and the pictures must end before this does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # It listens already: whoever opens the page now waits until it is served.
        ready()
        try:
            server.run(sockets=[listener])
        finally:
            queue.close()
