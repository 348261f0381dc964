"""gunicorn, started so that health checks are answered under any load and while loading.

One worker process holds the model: more would each hold a copy and fight for the same cores.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from serve.settings import Settings

__all__ = ["launch"]

log = logging.getLogger(__name__)

THREADS = 64
"""Requests in hand at a time: as many as a batch is chosen from. They mostly wait."""


def launch(settings: Settings) -> None:
    """Serve until SIGTERM; raises SystemExit with gunicorn's exit status."""
    _Application(settings).run()


class _Application(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "worker_class": Worker,
            "workers": 1,
            "threads": THREADS,
            "worker_connections": 10_000,
            "keepalive": 75,
            "timeout": 120,
            "graceful_timeout": 25,  # SageMaker kills 30 s after SIGTERM
            "worker_tmp_dir": "/tmp",  # the only place that is writable everywhere
            "control_socket_disable": True,
            "post_worker_init": self._start_loading,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from serve.app import create_app
        from serve.predictor import Predictor

        self._predictor = Predictor()
        return create_app(self._predictor, self._settings.max_body)

    def _start_loading(self, worker: object) -> None:
        threading.Thread(target=self._load_model, name="load", daemon=True).start()

    def _load_model(self) -> None:
        from textmodel.artifact import ArtifactError

        try:
            self._predictor.load(self._settings)
        except ArtifactError as error:
            log.error("the model cannot be served: %s", error)
        except Exception:
            log.exception("the model cannot be served; this is a bug in optml")
        else:
            return
        # A container without a model must end, or the endpoint would wait for it in vain.
        logging.shutdown()
        os._exit(Arbiter.APP_LOAD_ERROR)


class Worker(ThreadWorker):  # type: ignore[misc]
    """A threaded worker that keeps threads for health checks.

    The platform takes a container that does not answer /ping within 2 s for dead, so a ping must
    not queue behind the requests that wait for the model.
    """

    def init_process(self) -> None:
        self._ping_threads = ThreadPoolExecutor(2, thread_name_prefix="ping")
        super().init_process()

    def enqueue_req(self, conn: TConn) -> None:
        start = _peek(conn.sock)
        buffered = conn.parser is not None and conn.parser.unreader.buf.getvalue()
        if start is None and not buffered:
            self._wait_for_data(conn)
            return
        pool = self._ping_threads if start and b" /ping" in start else self.tpool
        future = pool.submit(self.handle, conn)
        future.add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def handle(self, conn: TConn) -> Any:
        """Serve a request, and close the connection here if it is not kept.

        gunicorn closes it in the thread that accepts all the others, where it waits up to 2 s for
        the client to close first. That is needed only where the client still sends its body:
        closing then would cut off the answer, such as 413.
        """
        kept = super().handle(conn)
        if not kept:
            limit = time.monotonic() + 2
            with contextlib.suppress(OSError, ParseException):
                read = conn.parser is not None and conn.parser.finish_body(deadline=limit)
                conn.close(graceful=not read)
        return kept

    def _wait_for_data(self, conn: TConn) -> None:
        """Let the poller watch a silent connection, so that it occupies no thread."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + self.cfg.keepalive
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))


def _peek(connection: socket.socket) -> bytes | None:
    """Return the first bytes that wait on a connection; None while there are none."""
    try:
        return connection.recv(len(b"HEAD /ping"), socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def configure_logging() -> None:
    """Log lines to standard output, as CloudWatch collects them."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout
    )
