"""gunicorn, started so that health checks are answered under any load and while loading.

A worker process holds the model, and serves with threads. Only on many cores there are several.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from prometheus_client.multiprocess import mark_process_dead

from serve import metrics
from serve.doorman import Doorman, Passage
from serve.invocation import Servable
from serve.logs import GunicornLogger
from serve.memo import Memo
from serve.settings import Settings
from serve.worker import Worker
from serve.workers import Scoreboard
from textmodel.hardware import cpu_count, share_cores
from textmodel.memory import give_back, share_arenas

__all__ = ["launch"]

log = logging.getLogger(__name__)

THREADS = 64
"""Requests in hand at a time: as many as a batch is chosen from. They mostly wait."""
CONNECTIONS = 10_000
"""At a time; further clients wait until one is closed."""
OTHER_FILES = 200
"""Open files that are no connections, and connections that are accepted before they are counted."""
LEAVE = 3.0
"""Seconds in which a process that ends has let go of its models."""
LAST_WORDS = 1.0
"""Seconds in which a process without a GPU answers what has failed, before it is replaced."""


def launch(settings: Settings, workers: int) -> None:
    """Serve until SIGTERM; raises SystemExit with gunicorn's exit status.

    Args:
        settings: those of one worker process.
        workers: how many there are.
    """
    application = _Application(settings, workers)
    try:
        application.run()
    except HaltServer as halt:  # for a second worker, while gunicorn ends because of the first
        application.tidy()
        raise SystemExit(halt.exit_status) from None


class _Application(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings = settings
        self._scoreboard = Scoreboard(workers)
        self._memo = Memo() if settings.multi_model else None
        self._threads: list[threading.Thread] = []
        self._lost = ""
        self._unload: Callable[[], None] = lambda: None
        super().__init__()

    def run(self) -> None:
        """Serve until a signal."""
        Doorman(self, self._scoreboard, self._settings.max_requests).run()

    def load_config(self) -> None:
        options = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "worker_class": Worker,
            "workers": self._scoreboard.workers,
            "threads": THREADS,
            "worker_connections": _most_connections(),
            "keepalive": 75,
            "timeout": 120,
            "graceful_timeout": 25,  # SageMaker kills 30 s after SIGTERM
            "worker_tmp_dir": "/tmp",  # the only place that is writable everywhere
            "control_socket_disable": True,
            "logger_class": GunicornLogger,
            "pre_fork": self._place,
            "post_fork": lambda server, worker: server.let_go(),
            "post_worker_init": self._begin,
            "worker_exit": self._end,
            "child_exit": self._forget,
            "on_exit": lambda server: self.tidy(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from serve.app import create_app
        from serve.models import Models
        from serve.servables import servable_for

        settings = self._settings
        self._only = None if settings.multi_model else servable_for(settings.model, settings)
        served: Servable | Models
        if self._only is None:
            served = many = Models(settings, self._memo)
            self._unload = many.unload_all
        else:
            served = self._only
            self._unload = served.unload
        self._fault = lambda: self._lost or served.fault or self._others_fault()
        return create_app(served, settings, self._lose, self._fault)

    def _others_fault(self) -> str:
        return "" if self._scoreboard.complete else "another worker is still loading the model"

    def _place(self, server: Arbiter, worker: Worker) -> None:
        """Give a worker that is about to be forked a place on the scoreboard."""
        taken = [other.place for other in server.WORKERS.values()]
        worker.scoreboard, worker.place = self._scoreboard, self._scoreboard.free_place(taken)
        self._scoreboard.clear(worker.place)
        worker.passage = Passage()

    def _forget(self, server: Arbiter, worker: Worker) -> None:
        """Take a worker that is gone off the scoreboard, and off what counts what is now."""
        worker.passage.close()
        self._scoreboard.clear(worker.place)
        if self._scoreboard.workers > 1:
            mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]

    def tidy(self) -> None:
        """Remove what all workers have counted into."""
        if self._scoreboard.workers > 1:
            shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)

    def _begin(self, worker: Worker) -> None:
        share_cores(self._scoreboard.workers)
        share_arenas(cpu_count().value)
        # torch and its like count the machine's cores, of which a container may have a few.
        threads = max(1, cpu_count().value // self._settings.handler_threads)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        worker.fault = self._fault
        worker.max_requests_in_hand = self._settings.max_requests
        metrics.watch_refusals(self._scoreboard.newly_refused)
        if self._only is None:
            worker.begin()
            log.info("the server is ready; POST /models loads a model")
        else:
            self._start(partial(self._load_model, self._only, worker.begin))

    def _start(self, function: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=function, daemon=True))
        self._threads[-1].start()

    def _end(self, server: Arbiter, worker: Worker) -> None:
        """Let no thread be in the engine when the interpreter ends: C++ would call that a crash."""
        self._start(self._unload)
        limit = time.monotonic() + LEAVE
        for thread in self._threads:
            thread.join(max(0.0, limit - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            _leave(0)

    def _lose(self) -> None:
        """Have this process replaced, as its GPU will not answer again; gunicorn starts another."""
        if not self._lost:
            self._lost = "the GPU has failed, see the log; the server starts anew"
            log.error("the GPU is lost to this process, which is replaced")
            threading.Timer(LAST_WORDS, _leave, [1]).start()

    def _load_model(self, model: Servable, begin: Callable[[], None]) -> None:
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
            # What is there now stays: to go through it again and again holds all threads up.
            give_back()
            gc.freeze()
            begin()
            return
        # A container without a model must end, or the endpoint would wait for it in vain.
        _leave(Arbiter.APP_LOAD_ERROR)


def _most_connections() -> int:
    """Return how many connections the limit of open files leaves, and raise that for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return CONNECTIONS
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(limit - OTHER_FILES, 1)


def _leave(code: int) -> NoReturn:
    """End this process, whatever its threads are in."""
    logging.shutdown()
    os._exit(code)
