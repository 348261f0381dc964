"""gunicorn, started so that health checks are answered under any load and while loading.

One worker process holds the model: more would each hold a copy and fight for the same cores.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from functools import partial
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from serve.invocation import Servable
from serve.logs import GunicornLogger
from serve.memo import Memo
from serve.settings import Settings
from serve.worker import Worker
from textmodel.hardware import cpu_count

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
        self._memo = Memo() if settings.multi_model else None
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
        from serve.models import Models
        from serve.servables import servable_for

        settings = self._settings
        self._only = None if settings.multi_model else servable_for(settings.model, settings)
        served = self._only or Models(settings, self._memo)
        self._fault = lambda: served.fault
        return create_app(served, settings)

    def _begin(self, worker: Worker) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL)
        # torch and its like count the machine's cores, of which a container may have a few.
        threads = max(1, cpu_count().value // self._settings.handler_threads)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        worker.fault = self._fault
        worker.max_requests_in_hand = self._settings.max_requests
        if self._only is None:
            log.info("the server is ready; POST /models loads a model")
        else:
            load = partial(self._load_model, self._only)
            threading.Thread(target=load, name="load", daemon=True).start()

    def _load_model(self, model: Servable) -> None:
        from serve.errors import UserCodeError
        from textmodel.artifact import ArtifactError

        try:
            model.load(self._settings.model, self._settings)
        except ArtifactError as error:
            log.error("the model cannot be served: %s", error)
        except UserCodeError as error:
            log.error("the model cannot be served: %s", error, exc_info=error.__cause__)
        except Exception:
            log.exception("the model cannot be served; this is a bug in optml")
        else:
            return
        # A container without a model must end, or the endpoint would wait for it in vain.
        logging.shutdown()
        os._exit(Arbiter.APP_LOAD_ERROR)
