"""The models of a multi-model endpoint: loaded, listed, asked and unloaded while others go on."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from serve.errors import BadModel, ModelExists, NoMemory, NoModel, TooLate
from serve.invocation import Clock, Invocation, Servable
from serve.memo import Memo
from serve.memory import Appetite, forget_frames, is_shortage
from serve.servables import servable_for
from serve.settings import Settings
from textmodel.artifact import ArtifactError
from textmodel.hardware import Choice, free_memory
from textmodel.memory import give_back, resident

__all__ = ["PAGE", "Model", "Models"]

log = logging.getLogger(__name__)

PAGE = 100
"""Models of a page of the list."""
LEAVE = 30.0
"""Seconds that requests in hand have to be answered before their model is unloaded."""
CUT_OFF = 5.0
"""Seconds in which those that are not answered by then have failed."""
MB = 2**20


@dataclass(frozen=True)
class Model:
    """A model as the platform knows it."""

    name: str
    url: str
    """The directory."""


@dataclass(eq=False)
class _Entry:
    model: Model
    listed: bool = False
    """Whether it was loaded, and is not being unloaded."""
    servable: Servable | None = None
    """None while it is not in memory; then its next request loads it."""
    users: int = 0
    used: float = 0.0
    """When its last request ended, by `time.monotonic`."""


class Models:
    """All models of this process, by name. Thread-safe; one is loaded at a time."""

    def __init__(
        self,
        settings: Settings,
        memo: Memo | None = None,
        free: Callable[[], Choice[int]] = free_memory,
    ) -> None:
        """Make an empty registry, or that of a worker which was lost.

        Args:
            settings: those of each model.
            memo: where the names of loaded models are noted.
            free: the bytes of memory that may be taken.
        """
        self._settings = settings
        self._memo = memo
        self._free = free
        self._appetite = Appetite()
        self._loading = threading.Lock()
        self._changed = threading.Condition()  # guards the entries
        self._entries = {
            name: _Entry(Model(name, url), listed=True)
            for name, url in (memo.read() if memo else {}).items()
        }

    @property
    def fault(self) -> str:
        """Why nothing can be asked: only where that is so for each model, and there is one."""
        with self._changed:
            loaded = [entry.servable for entry in self._entries.values() if entry.servable]
        faults = [servable.fault for servable in loaded]
        return faults[0] if faults and all(faults) else ""

    def invoke(self, invocation: Invocation, clock: Clock) -> NoReturn:
        """Refuse a request that does not say which model it is for.

        Raises:
            NoModel: always.
        """
        raise NoModel(
            "this server has several models (SAGEMAKER_MULTI_MODEL=true); "
            "ask one of GET /models at POST /models/NAME/invoke"
        )

    def load(self, name: str, url: str) -> Model:
        """Load the model in the directory `url`.

        Raises:
            ModelExists: there is one of that name, or it is being loaded or unloaded.
            BadModel: the directory cannot be used.
            NoMemory: it does not fit beside the others.
        """
        entry = _Entry(Model(name, url))
        with self._changed:
            if name in self._entries:
                raise ModelExists(f"model {name!r} is loaded already, or is about to be")
            self._entries[name] = entry
        try:
            with self._loading:
                self._wake(entry)
        except BaseException as error:
            self._remove(entry)
            log.warning("model %r is not loaded: %s", name, error)
            raise
        with self._changed:
            entry.listed = True
            self._note()
        return entry.model

    def unload(self, name: str) -> None:
        """Release a model; when this returns, its memory is given back.

        Requests in hand are answered first, or fail after LEAVE seconds.

        Raises:
            NoModel: there is none of that name.
        """
        with self._changed:
            self._changed.wait_for(lambda: name not in self._entries or self._entries[name].listed)
            entry = self._find(name)
            entry.listed = False
            if not self._changed.wait_for(lambda: not entry.users, LEAVE):
                # One that is just being loaded for a request cannot be released before.
                self._changed.wait_for(lambda: entry.servable or not entry.users)
                log.warning("model %r is unloaded with %d requests in hand", name, entry.users)
            servable, entry.servable = entry.servable, None
        if servable is not None:
            servable.unload()
            del servable
        with self._changed:
            self._changed.wait_for(lambda: not entry.users, CUT_OFF)
        give_back()
        self._remove(entry)
        log.info("model %r unloaded, %d MB are held", name, resident() / MB)

    def unload_all(self) -> None:
        """Release all models at once; what still waits for one fails."""
        with self._changed:
            entries = list(self._entries.values())
        for entry in entries:
            if (servable := entry.servable) is not None:
                servable.unload()

    def get(self, name: str) -> Model:
        """Return a loaded model.

        Raises:
            NoModel: there is none of that name.
        """
        with self._changed:
            return self._find(name).model

    def page(self, after: str = "") -> tuple[list[Model], str | None]:
        """Return the loaded models whose names follow `after`, and where the next page begins."""
        with self._changed:
            models = [entry.model for entry in self._entries.values() if entry.listed]
        following = sorted(
            (model for model in models if model.name > after), key=lambda model: model.name
        )
        page = following[:PAGE]
        return page, page[-1].name if len(following) > PAGE else None

    @contextmanager
    def using(self, name: str, clock: Clock) -> Iterator[Servable]:
        """Yield what serves a model, which stays loaded meanwhile.

        Raises:
            NoModel: there is none of that name.
            NoMemory: it was put out of memory, and does not fit any more; or there was too little
                to answer.
            TooLate: others were loaded for all the time that the request had.
        """
        with self._changed:
            entry = self._find(name)
            entry.users += 1
        try:
            yield entry.servable or self._awake(entry, clock)
        except Exception as error:
            if is_shortage(error):
                raise NoMemory("memory ran out; unload other models first") from error
            raise
        finally:
            with self._changed:
                entry.users -= 1
                entry.used = time.monotonic()
                self._changed.notify_all()

    def _find(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None or not entry.listed:
            raise NoModel(f"there is no model {name!r}; POST /models loads one, GET /models lists")
        return entry

    def _remove(self, entry: _Entry) -> None:
        with self._changed:
            del self._entries[entry.model.name]
            self._note()

    def _note(self) -> None:
        """Tell the waiting, and the memo, that the entries have changed."""
        self._changed.notify_all()
        if self._memo:
            listed = [entry.model for entry in self._entries.values() if entry.listed]
            self._memo.write({model.name: model.url for model in listed})

    def _awake(self, entry: _Entry, clock: Clock) -> Servable:
        """Load a model that is known, but not in memory, for a request."""
        patience = min(max(clock.deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
        if not self._loading.acquire(timeout=patience):
            raise TooLate("other models were loaded all the time; try again")
        try:
            return entry.servable or self._wake(entry)
        finally:
            self._loading.release()

    def _wake(self, entry: _Entry) -> Servable:
        """Load a model, or leave nothing of it. The caller holds `_loading`."""
        name, directory = entry.model.name, Path(entry.model.url)
        if not os.path.isdir(directory):  # noqa: PTH112, Path.is_dir fails where a name is too long
            raise BadModel(
                f"{str(directory)!r:.200} is no directory; url names the one of the unpacked model"
            )
        self._make_room(self._appetite.of(directory))
        started, before = time.monotonic(), resident()
        servable = servable_for(directory, self._settings)
        try:
            servable.load(directory, self._settings)
        except Exception as error:
            servable.unload()
            forget_frames(error)
            give_back()
            if is_shortage(error):
                cause = str(error).strip().rpartition("\n")[2] or type(error).__name__
                raise NoMemory(f"memory ran out while the model was loaded: {cause}") from error
            if isinstance(error, ArtifactError):
                raise BadModel(str(error)) from error
            raise
        taken = resident() - before
        self._appetite.learn(directory, taken)
        with self._changed:
            entry.servable = servable
            entry.used = time.monotonic()
            self._changed.notify_all()
        log.info(
            "model %r loaded after %.1f s, it took %d MB; %d MB are free (%s)",
            name, time.monotonic() - started, taken / MB,
            (free := self._free()).value / MB, free.reason,
        )  # fmt: skip
        return servable

    def _make_room(self, needed: int) -> None:
        """Have so many bytes free; only where that is wished, others are put out of memory."""
        while (free := self._free()).value < needed:
            idle = self._longest_idle() if self._settings.evict else None
            if idle is None:
                raise NoMemory(
                    f"the model needs about {needed / MB:.0f} MB of memory, and "
                    f"{free.value / MB:.0f} MB are free ({free.reason}); unload others first"
                )
            idle.unload()
            del idle
            give_back()

    def _longest_idle(self) -> Servable | None:
        """Take the least recently used model that nobody uses; its entry stays."""
        with self._changed:
            idle = [
                entry
                for entry in self._entries.values()
                if entry.servable and entry.listed and not entry.users
            ]
            if not idle:
                return None
            entry = min(idle, key=lambda entry: entry.used)
            servable, entry.servable = entry.servable, None
            log.info("model %r gives its memory to another one until it is asked", entry.model.name)
            return servable
