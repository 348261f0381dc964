"""The user's own inference code behind the routes: the functions that AWS's containers call.

Source: transformer.py of sagemaker-inference 1.10.1, whose rules these are.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from serve.decoders import CSV, JSON, charset_of, read_string
from serve.encoders import best_of
from serve.errors import NotAcceptable, NotReady, UserCodeError
from serve.invocation import PATIENCE, Clock, Invocation, Reply
from serve.settings import Settings
from serve.user_code import HANDLERS, LOADING, Program
from serve.user_context import Context
from serve.user_defaults import BuiltInModel, Defaults
from serve.user_errors import told_apart
from serve.user_formats import ENCODERS, encode
from serve.user_imports import import_program, unload_program
from serve.user_requirements import check_requirements

__all__ = ["UserModel"]

log = logging.getLogger(__name__)

LEAVE = 5.0
"""Seconds in which what runs has to end when the model is unloaded."""


@dataclass(frozen=True)
class _Handler:
    """A function of the user's, or the default in its place."""

    name: str
    function: Callable[..., Any]
    with_context: bool
    directory: Path
    is_default: bool = False

    def __call__(self, context: Context, *arguments: Any) -> Any:
        if self.is_default:
            return self.function(*arguments, context)
        with told_apart(self.name, self.directory, answers=self.name not in LOADING):
            return self.function(*arguments, *((context,) if self.with_context else ()))


class UserModel:
    """A model that answers by the functions of a program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._handlers: dict[str, _Handler] = {}
        self._model: Any = None
        self._threads = 0
        self._turns = threading.Semaphore(0)
        self._fault = "the model is still being loaded; ask again when /ping answers 200"

    @property
    def fault(self) -> str:
        return self._fault or (self._model.fault if self._is_built_in else "")

    @property
    def _is_built_in(self) -> bool:
        return isinstance(self._model, BuiltInModel)

    def load(self, directory: Path, settings: Settings) -> None:
        """Import the program, then call its `pre_model_fn`, `model_fn` and `model_warmup_fn`.

        Raises:
            UserCodeError: it fails, or what it needs is not there.
            ArtifactError: it has no `model_fn`, and the directory cannot be used without.
        """
        try:
            self._load(directory, settings)
        except BaseException:
            self.unload()
            raise

    def _load(self, directory: Path, settings: Settings) -> None:
        started = time.monotonic()
        check_requirements(self._program.directory)
        self._directory = directory
        self._accept = settings.default_accept
        defaults = Defaults(self._program.directory, directory, settings)
        self._handlers = _handlers(import_program(self._program.file), self._program, defaults)
        context = Context(directory)
        if "pre_model_fn" in self._handlers:
            self._handlers["pre_model_fn"](context, str(directory))
        self._model = defaults.model = self._handlers["model_fn"](context, str(directory))
        if "model_warmup_fn" in self._handlers:
            self._handlers["model_warmup_fn"](context, str(directory), self._model)
        own = [name for name, handler in self._handlers.items() if not handler.is_default]
        log.info(
            "model ready after %.1f s: %s of %s, %d at a time",
            time.monotonic() - started, ", ".join(own), self._program.file.name,
            settings.handler_threads,
        )  # fmt: skip
        self._threads = settings.handler_threads
        self._turns.release(self._threads)
        self._fault = ""

    def unload(self) -> None:
        """Release the model once nothing of the program runs; what waits for its turn fails.

        A function that does not come to an end is not waited for longer than LEAVE.
        """
        self._fault = "the model is being unloaded"
        limit = time.monotonic() + LEAVE
        taken = sum(
            self._turns.acquire(timeout=max(0.0, limit - time.monotonic()))
            for _ in range(self._threads)
        )
        if taken:
            self._turns.release(taken)  # for those that wait, to learn of it
        if self._is_built_in:
            self._model.unload()
        self._model = None
        unload_program(self._program.file)

    def invoke(self, invocation: Invocation, clock: Clock) -> Reply:
        if self.fault:
            raise NotReady(self.fault)
        last = self._handlers.get("transform_fn") or self._handlers["output_fn"]
        accept = self._negotiate(invocation.accept, last)
        content_type, data = _read(invocation)
        context = Context(self._directory, invocation.headers, clock)
        result = self._answer(data, content_type, accept, context)
        return _reply(result, last, accept, context)

    def _answer(self, data: str | bytes, content_type: str, accept: str, context: Context) -> Any:
        """Call the functions for a request, in a turn of its own."""
        call = self._handlers
        if "transform_fn" in call:
            with self._turn(context.clock):
                return call["transform_fn"](context, self._model, data, content_type, accept)
        if self._is_built_in and call["predict_fn"].is_default:
            with self._turn(context.clock):
                decoded = call["input_fn"](context, data, content_type)
            # Not in the turn, because it executes the texts of many requests together.
            prediction = call["predict_fn"](context, decoded, self._model)
            with self._turn(context.clock):
                return call["output_fn"](context, prediction, accept)
        with self._turn(context.clock):
            decoded = call["input_fn"](context, data, content_type)
            prediction = call["predict_fn"](context, decoded, self._model)
            return call["output_fn"](context, prediction, accept)

    @contextmanager
    def _turn(self, clock: Clock) -> Iterator[None]:
        """Wait until the code may be called: it was written for one request at a time.

        Raises:
            ClientGone, TooLate: nobody waits for the answer any more.
            NotReady: the model was unloaded meanwhile.
        """
        came = time.monotonic()
        while not self._turns.acquire(timeout=PATIENCE):
            if self._fault:
                raise NotReady(self._fault)
            clock.look()
        started = time.monotonic()
        try:
            if self._fault:
                raise NotReady(self._fault)
            yield
        finally:
            self._turns.release()
            clock.seconds["queue"] += started - came
            clock.seconds["model"] += time.monotonic() - started

    def _negotiate(self, header: str, last: _Handler) -> str:
        """Return the media type that the client likes best, without parameters.

        Raises:
            NotAcceptable: the default output_fn does not write it.
        """
        accept = parse_accept_header(header, MIMEAccept)
        if last.is_default:
            best = best_of(accept, self._accept, *ENCODERS) if accept else self._accept
            if best not in ENCODERS:
                raise NotAcceptable(
                    f"Accept {accept or self._accept} is not written here without an output_fn; "
                    f"accept {', '.join(ENCODERS)}"
                )
            return best
        liked = accept.best or "*/*"
        if "*" in liked:
            liked = best_of(accept, self._accept, *ENCODERS) or self._accept
        return parse_options_header(liked)[0]


def _handlers(module: ModuleType, program: Program, defaults: Defaults) -> dict[str, _Handler]:
    """Return a program's functions, and defaults for those that it lacks.

    Raises:
        UserCodeError: they do not go together, or take other parameters.
    """
    own = {
        name: getattr(module, name) for name in HANDLERS if callable(getattr(module, name, None))
    }
    others = [name for name in ("input_fn", "predict_fn", "output_fn") if name in own]
    if "transform_fn" in own and others:
        raise UserCodeError(
            f"{program.file.name} has transform_fn and {', '.join(others)}; transform_fn does what "
            "they do, so it must have either"
        )
    found = {
        name: _Handler(name, function, _takes_context(name, function, program), program.directory)
        for name, function in own.items()
    }
    for name, function in defaults.functions().items():
        if name not in found and not ("transform_fn" in found and name != "model_fn"):
            found[name] = _Handler(name, function, True, program.directory, is_default=True)
    return found


def _takes_context(name: str, function: Callable[..., Any], program: Program) -> bool:
    """Return whether a function has one more parameter than it needs.

    Raises:
        UserCodeError: it has yet others.
    """
    needed = HANDLERS[name]
    parameters = inspect.signature(function).parameters.values()
    positional = [
        one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    any_number = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    if len(positional) == len(needed) + 1:
        return True
    if len(positional) == len(needed) or (any_number and len(positional) < len(needed)):
        return False
    raise UserCodeError(
        f"{name} of {program.file.name} takes {len(positional)} parameters; it must take "
        f"{len(needed)} ({', '.join(needed)}) or {len(needed) + 1} (context behind them)"
    )


def _read(invocation: Invocation) -> tuple[str, str | bytes]:
    """Return the media type, without parameters, and the body: a text where it is JSON or CSV."""
    media_type, options = parse_options_header(invocation.content_type or JSON)
    media_type, body = media_type.lower(), invocation.body.read()
    if media_type not in (JSON, CSV):
        return media_type, body
    return media_type, read_string(body, charset_of(options.get("charset", "utf-8")))


def _reply(result: Any, last: _Handler, accept: str, context: Context) -> Reply:
    """Make an answer of what the last function returned.

    Raises:
        UserCodeError: it returned nothing, or what JSON cannot express.
    """
    processor = context.request_processor[0]
    headers = dict(processor.get_response_headers())
    media_type = headers.pop("Content-Type", accept)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], str):
        result, media_type = result
    if result is None:
        raise UserCodeError(f"{last.name} returned nothing; it must return the body of the answer")
    if isinstance(result, str):
        result = result.encode("utf-8", "replace")
    elif not isinstance(result, (bytes, bytearray, memoryview)):
        media_type = JSON  # as AWS's model servers write what is no body yet
        with told_apart(f"writing what {last.name} returned as JSON", last.directory):
            result = encode(result, JSON)
    status = processor.get_response_status_code()
    return Reply([bytes(result)], media_type, status, headers)
