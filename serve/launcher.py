"""gunicorn, started so that health checks are answered under any load and while loading.

One worker process holds the model: more would each hold a copy and fight for the same cores.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from serve.logs import GunicornLogger
from serve.settings import Settings
from serve.worker import Worker

__all__ = ["launch"]

log = logging.getLogger(__name__)

THREADS = 64
"""Requests in hand at a time: as many as a batch is chosen from. They mostly wait."""
SWITCH_INTERVAL = 0.0005
"""Seconds that a thread may keep Python's lock from the one that accepts connections."""


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
            "logger_class": GunicornLogger,
            "post_worker_init": self._begin,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from serve.app import create_app
        from serve.text_model import TextModel

        self._model = TextModel()
        return create_app(self._model, self._settings)

    def _begin(self, worker: Worker) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL)
        worker.fault = lambda: self._model.fault
        worker.max_requests_in_hand = self._settings.max_requests
        threading.Thread(target=self._load_model, name="load", daemon=True).start()

    def _load_model(self) -> None:
        from textmodel.artifact import ArtifactError

        try:
            self._model.load(self._settings.model, self._settings)
        except ArtifactError as error:
            log.error("the model cannot be served: %s", error)
        except Exception:
            log.exception("the model cannot be served; this is a bug in optml")
        else:
            return
        # A container without a model must end, or the endpoint would wait for it in vain.
        logging.shutdown()
        os._exit(Arbiter.APP_LOAD_ERROR)
