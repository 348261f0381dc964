"""OpenVINO graphs as they are executed."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from textmodel.layouts import Shape
from textmodel.memory import give_back
from textmodel.priority import call_at, niceness

__all__ = ["Compiled", "openvino_core"]

log = logging.getLogger(__name__)

Requests = queue.SimpleQueue[Any]
"""What executes a graph, as many as may at the same time."""

# A shape takes another one's place if it is that of a quarter of some hundred batches. Of fewer,
# chance would have shapes that are about as common take each other's place again and again.
# A free place is taken soon, so that memory does not grow after hours, also where batches are
# rare: those that all cores execute, of a server that is always busy.
_COUNT_EVERY = 64
_COUNT_FREE_EVERY = 8
_WORTH_A_PLACE = 1 / 4
_WORTH_A_FREE_PLACE = 1 / 16
_KEPT = 7 / 8


class Compiled:
    """A graph for batches of any shape, and special ones for single shapes.

    Those are faster, take memory each, and give other last bits. So of urgent batches the shapes
    get one that come most often by now; of others, whose outputs must not depend on what was
    executed before, always the same ones.
    """

    def __init__(
        self, graph: Any, options: dict[str, Any], special: int, full: Collection[Shape]
    ) -> None:
        """Compile the graph for any shape.

        Args:
            options: those of OpenVINO.
            special: how many shapes that come often get a graph of their own.
            full: the shapes that have one where nobody waits, unless `special` is 0.
        """
        self._graph = graph
        self._options = options
        self._niceness = niceness()  # that of the engine's threads, whoever has a graph made
        self._general = self._requests(graph)
        self._limit = special
        self._full = full if special else ()
        self._lock = threading.Lock()
        self._special: dict[Shape, Requests] = {}
        self._counts = Counter[Shape]()
        self._batches = 0
        self._making: threading.Thread | None = None

    @property
    def special(self) -> set[Shape]:
        """The shapes that have a graph of their own by now."""
        with self._lock:
            return set(self._special)

    @contextmanager
    def request(self, shape: Shape, urgent: bool) -> Iterator[Any]:
        """Yield what executes a batch of this shape; others may take it afterwards."""
        requests = self._quickest(shape) if urgent else self._reproducible(shape)
        request = requests.get()
        try:
            yield request
        finally:
            requests.put(request)

    def _quickest(self, shape: Shape) -> Requests:
        with self._lock:
            if self._limit:
                self._count(shape)
            return self._special.get(shape, self._general)

    def _reproducible(self, shape: Shape) -> Requests:
        if shape not in self._full:
            return self._general
        with self._lock:
            if shape not in self._special:
                self._special[shape] = self._requests(self._of_shape(shape))
            return self._special[shape]

    def _count(self, shape: Shape) -> None:
        self._counts[shape] += 1
        self._batches += 1
        free = len(self._special) < self._limit
        if self._batches % (_COUNT_FREE_EVERY if free else _COUNT_EVERY) == 0:
            self._look_at_counts(free)
        if self._batches % _COUNT_EVERY == 0:
            self._counts = Counter(
                {shape: int(_KEPT * count) for shape, count in self._counts.items() if count > 1}
            )

    def _look_at_counts(self, free: bool) -> None:
        """Have a graph made where a shape that lacks one has become common."""
        counts = self._counts
        wanted = max(counts.keys() - self._special.keys(), key=counts.__getitem__, default=None)
        if free:
            least, replaced = max(_WORTH_A_FREE_PLACE * counts.total(), 2), None
        else:
            replaced = min(self._special, key=counts.__getitem__)
            least = max(_WORTH_A_PLACE * counts.total(), 2 * counts[replaced])
        making = self._making and self._making.is_alive()
        if wanted and counts[wanted] >= least and not making:
            # No daemon, as the thread that has it made may be: an interpreter that ends meanwhile
            # would crash in it.
            self._making = threading.Thread(
                target=self._make, args=(wanted, replaced), daemon=False
            )
            self._making.start()

    def _make(self, shape: Shape, replaced: Shape | None) -> None:
        if replaced:  # before, so that its memory is there to be used again
            with self._lock:
                del self._special[replaced]
        try:
            requests = self._requests(self._of_shape(shape))
        except (MemoryError, RuntimeError) as error:
            log.warning("no graph for the shape %s alone: %s", shape, error)
            self._limit = 0
        else:
            with self._lock:
                self._special[shape] = requests
            log.info("batches of the shape %s have a graph of their own now", shape)
        finally:
            give_back()  # malloc would keep what the compiler needed: about 40 MB for MiniLM

    def _of_shape(self, shape: Shape) -> Any:
        graph = self._graph.clone()
        graph.reshape({port.any_name: list(shape) for port in graph.inputs})
        return graph

    def _requests(self, graph: Any) -> Requests:
        compiled = call_at(
            self._niceness, openvino_core().compile_model, graph, "CPU", self._options
        )
        requests: Requests = queue.SimpleQueue()
        for _ in range(self._options["NUM_STREAMS"]):
            requests.put(compiled.create_infer_request())
        return requests


@cache
def openvino_core() -> Any:
    """Return the one `openvino.Core` of this process.

    Each Core gives the thread that makes it an alternate signal stack and unmaps that in the end.
    Where two of them come and go in another order than they nest, the next signal is a crash.
    """
    import openvino
    from openvino import opset13

    core = openvino.Core()
    # The binding makes some of its own things in its first call, and gives Python's lock away
    # meanwhile: two threads whose first calls coincide wait for each other forever.
    numbers = opset13.parameter([1], np.int64)
    graph = openvino.Model([opset13.convert(numbers, "f32")], [numbers]).clone()
    graph.reshape({port.any_name: [1] for port in graph.inputs})
    request = core.compile_model(graph, "CPU", {"NUM_STREAMS": 1}).create_infer_request()
    request.infer({0: np.zeros(1, np.int64)}, share_inputs=True)
    np.array(request.get_output_tensor(0).data)
    return core
