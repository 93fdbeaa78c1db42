"""A server in a thread, which sees a connection close while the event loop stands still.

Waiting for `client_gone` without giving the loop a turn proves that the connection was closed
already, and would not have been only in the loop's next round.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress


class BlockingServer(threading.Thread):
    """Answers one request, and then only listens. Over TLS it takes no leave either."""

    def __init__(self, answer: bytes, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(daemon=True)
        self._answer = answer
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/chat"
        self.has_request = threading.Event()
        self.client_gone = threading.Event()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:  # the client thinks nothing of the certificate
                self._listener.close()
                return
        connection.recv(65536)
        connection.sendall(self._answer)
        self.has_request.set()
        with self._listener, socket.socket(fileno=connection.detach()) as raw:
            with suppress(ConnectionError):
                while raw.recv(65536):
                    pass
            self.client_gone.set()
