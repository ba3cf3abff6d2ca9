"""A network between two programs that a test can cut and mend."""

import contextlib
import socket
import threading


class Proxy:
    """Forwards each connection to its own port on to another one of the same address."""

    def __init__(self, address: str, target: int) -> None:
        self._address, self._target = address, target
        self._connections: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        self._accept_in_background()

    def cut(self) -> None:
        """Connections break, and new ones are refused."""
        # A listener that another thread waits for stays alive until it returns.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._listener = socket.create_server((self._address, self.port))
        self._accept_in_background()

    def freeze(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def _accept_in_background(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection((self._address, self._target))
                self._connections |= {near, far}
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flowing.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
            self._connections.discard(one)
