"""A WSGI application on a port of this machine that nobody else can reach."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wsgi import ClosingIterator

from local_test.arguments import ArgumentError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["listen", "serving"]

HOST = "127.0.0.1"
LAST_WORDS = 5.0
"""Seconds in which answers that are there are still written at the end."""


class _Handler(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass  # the application says what matters


class _Counted:
    """An application of which is known whether it is answering."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self._changed = threading.Condition()
        self._answering = 0

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        self._count(1)
        try:
            return ClosingIterator(self._application(environ, start), lambda: self._count(-1))
        except BaseException:
            self._count(-1)
            raise

    def wait_until_idle(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, LAST_WORDS)

    def _count(self, change: int) -> None:
        with self._changed:
            self._answering += change
            self._changed.notify_all()


def listen(port: int) -> socket.socket:
    """Take a port of the loopback, any free one if it is 0, for as long as the socket is open.

    Raises:
        ArgumentError: it is in use.
    """
    try:
        return socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ArgumentError(f"port {port} is in use; type --port with another one") from error


@contextmanager
def serving(application: WSGIApplication, listener: socket.socket) -> Iterator[str]:
    """Answer requests on threads; yield http://HOST:PORT. At the end all are answered first."""
    counted = _Counted(application)
    port = listener.getsockname()[1]
    server = make_server(
        HOST, port, counted, threaded=True, request_handler=_Handler, fd=listener.fileno()
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        counted.wait_until_idle()
        server.shutdown()
        thread.join()
        server.server_close()
