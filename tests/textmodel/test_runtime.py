from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.processes import alone
from tests.train.trees import messages
from textmodel import runtime as module
from textmodel.artifact import Artifact, ArtifactError
from textmodel.classifier import load_classifier, load_parts
from textmodel.compiled import Compiled
from textmodel.hardware import Choice, precision
from textmodel.layouts import Shape
from textmodel.priority import call_at, niceness
from textmodel.runtime import (
    RUNTIMES,
    OpenVINORuntime,
    Runtime,
    load_runtime,
    openvino_precision,
)
from textmodel.tokenizer import Tokens

MANY = 400
"""Batches of a shape after which it is more common than any that came before."""
TEXTS = ["fire", *(text for text, _ in messages(210, 260)), "word " * 300]


@pytest.fixture(scope="module", params=["logistic_model", "finetuned_model"])
def artifact(request: pytest.FixtureRequest) -> Artifact:
    tree: Path = request.getfixturevalue(request.param)
    return Artifact.open(tree / "model")


@pytest.fixture(scope="module")
def tokens(artifact: Artifact) -> list[Tokens]:
    tokenize, _, _ = load_parts(artifact)
    return tokenize(TEXTS)


def runtime(artifact: Artifact, name: str, precision: str = "fp32") -> Runtime:
    return load_runtime(artifact, 0, name, precision)[0]


def test_openvino_equals_torch(artifact: Artifact, tokens: list[Tokens]) -> None:
    openvino, torch = (runtime(artifact, name)(tokens) for name in ("openvino", "torch"))
    np.testing.assert_allclose(openvino, torch, atol=1e-4)


@pytest.mark.parametrize("name", RUNTIMES)
def test_batch_equals_single(artifact: Artifact, tokens: list[Tokens], name: str) -> None:
    execute = runtime(artifact, name)
    single = np.concatenate([execute([one]) for one in tokens])
    np.testing.assert_allclose(execute(tokens), single, atol=1e-4)


@pytest.mark.parametrize("tree", ["forest_model", "logistic_model", "finetuned_model"])
def test_labels_in_bf16_are_those_in_fp32(tree: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(tree) / "model"
    full = load_classifier(directory, precision="fp32").predict(TEXTS)
    half = load_classifier(directory, precision="bf16").predict(TEXTS)
    decided = np.abs(full[:, 0] - 0.5) > 0.05  # else both labels are as good
    assert decided.sum() > len(TEXTS) / 2
    assert (full.argmax(1) == half.argmax(1))[decided].all()


@pytest.mark.parametrize("name", RUNTIMES)
def test_threads_get_their_own_answers(artifact: Artifact, tokens: list[Tokens], name: str) -> None:
    execute = runtime(artifact, name)
    expected = [execute([one]) for one in tokens]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda one: execute([one]), tokens))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-5)


def come_often(execute: OpenVINORuntime, length: int) -> Compiled:
    """Have batches of one shape executed until that shape counts as common."""
    compiled = execute._on_all_cores
    for _ in range(MANY):
        execute([Tokens([101] * length)], urgent=True)
    if compiled._making:
        compiled._making.join()
    return compiled


def test_shapes_that_come_often_get_graphs_of_their_own_and_make_room_for_those_that_come_later(
    artifact: Artifact,
) -> None:
    execute = OpenVINORuntime(artifact, 0, "bf16")
    assert not execute._on_all_cores.special
    assert come_often(execute, 20).special == {(1, 24)}
    assert come_often(execute, 60).special == {(1, 64)}
    busy = execute._on_streams
    for length in (60, 100, 200):
        for _ in range(MANY):
            with busy.request((1, length), urgent=True):
                pass
        assert busy._making
        busy._making.join()
    assert busy.special == {(1, 100), (1, 200)}


@pytest.mark.parametrize(
    ("length", "width"), [(2, 24), (24, 24), (25, 32), (33, 48), (65, 96), (100, 128)]
)
def test_lone_texts_have_few_widths_the_least_of_which_does_for_most_short_ones(
    artifact: Artifact, length: int, width: int
) -> None:
    layout = OpenVINORuntime(artifact, 0, "bf16")._layout
    assert layout.arrays([Tokens([101] * length)], lone=True)["input_ids"].shape == (1, width)


def niceness_of_the_engine(tree: Path) -> set[int]:
    """Return that of all threads that an engine which stands back has in the end."""

    def threads() -> set[int]:
        return {int(path.name) for path in Path("/proc/self/task").iterdir()}

    before = threads()
    execute = call_at(niceness() + 3, OpenVINORuntime, Artifact.open(tree / "model"), 0, "bf16")
    assert come_often(execute, 20).special
    execute([Tokens([101] * 20)], urgent=True)
    return {os.getpriority(os.PRIO_PROCESS, thread) - niceness() for thread in threads() - before}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux")
def test_threads_of_a_graph_that_is_made_later_stand_back_as_those_of_the_first(
    logistic_model: Path,
) -> None:
    # In a process of its own: in this one, the engine may use threads that it has already.
    assert alone(niceness_of_the_engine, logistic_model) == {3}


def test_shapes_that_are_about_as_common_do_not_take_each_others_place(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Shape] = []
    of_shape = Compiled._of_shape

    def noted(self: Compiled, shape: Shape) -> object:
        made.append(shape)
        return of_shape(self, shape)

    monkeypatch.setattr(Compiled, "_of_shape", noted)
    busy = OpenVINORuntime(artifact, 0, "bf16")._on_streams
    for length in [60, 100, 200] * 16:
        for _ in range(40):
            with busy.request((1, length), urgent=True):
                pass
        if busy._making:
            busy._making.join()
    assert len(made) == len(set(made)) == 2


def test_a_free_place_is_taken_soon_so_that_memory_does_not_grow_later(artifact: Artifact) -> None:
    busy = OpenVINORuntime(artifact, 0, "bf16")._on_streams
    for length in [60] * 58 + [100] * 6 + [60] * 58 + [100] * 6:
        with busy.request((1, length), urgent=True):
            pass
        if busy._making:
            busy._making.join()
    assert busy.special == {(1, 60), (1, 100)}


def test_a_free_place_is_taken_by_the_most_common_of_the_first_few_batches(
    artifact: Artifact,
) -> None:
    busy = OpenVINORuntime(artifact, 0, "bf16")._on_streams
    for length in (30, 60, 60, 100, 100, 100, 200, 300):
        assert not busy._making
        with busy.request((1, length), urgent=True):
            pass
    assert busy._making
    busy._making.join()
    assert busy.special == {(1, 100)}


def test_what_the_compiler_of_a_graph_has_released_is_given_back(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[None] = []
    monkeypatch.setattr("textmodel.compiled.give_back", lambda: given_back.append(None))
    execute = OpenVINORuntime(artifact, 0, "bf16")
    for count, length in enumerate((20, 60), start=1):
        come_often(execute, length)
        assert len(given_back) == count


@pytest.mark.parametrize(
    ("precision", "sparing", "small_bytes"),
    [("fp32", False, 2**40), ("bf16", True, 2**40), ("bf16", False, 0)],
)
def test_graphs_of_one_shape_are_not_made_where_they_are_not_worth_their_memory(
    precision: str,
    sparing: bool,
    small_bytes: int,
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SMALL_BYTES", small_bytes)
    execute = OpenVINORuntime(artifact, 0, precision, sparing)
    assert not come_often(execute, 20).special
    execute([Tokens([101] * 128)] * 4)
    assert not execute._on_streams.special


def test_graphs_of_one_shape_answer_as_that_of_any_shape(
    artifact: Artifact, tokens: list[Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    special = OpenVINORuntime(artifact, 0, "bf16")
    come_often(special, 20)
    monkeypatch.setattr(module, "_SMALL_BYTES", 0)
    general = OpenVINORuntime(artifact, 0, "bf16")
    rows = [Tokens((one.ids * 128)[:128]) for one in tokens]
    for urgent, batches in ((True, [[one] for one in tokens]), (False, [rows[:4], rows[4:8]])):
        found, expected = (
            np.concatenate([execute(batch, urgent=urgent) for batch in batches])
            for execute in (special, general)
        )
        np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())
    assert special._on_streams.special == {(4, 128)}


def test_batches_that_nobody_waits_for_get_the_same_bytes_whatever_was_executed_before(
    artifact: Artifact,
) -> None:
    execute = OpenVINORuntime(artifact, 0, "bf16")
    lengths = ([20], [60], [128] * 4, [190], [256])
    batches = [[Tokens(list(range(200, 200 + length))) for length in each] for each in lengths]
    before = [execute(batch) for batch in batches]
    for length in (64, 192):
        for _ in range(MANY):
            with execute._on_streams.request((1, length), urgent=True):
                pass
        assert execute._on_streams._making
        execute._on_streams._making.join()
    assert execute._on_streams.special == {(1, 64), (1, 192)}
    after = [execute(batch) for batch in batches]
    np.testing.assert_array_equal(np.concatenate(after), np.concatenate(before))


def test_a_graph_that_cannot_be_made_for_one_shape_is_told_once_and_not_missed(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Compiled, shape: Shape) -> None:
        raise RuntimeError(f"cannot reshape to {shape}")

    execute = OpenVINORuntime(artifact, 0, "bf16")
    monkeypatch.setattr(Compiled, "_of_shape", fail)
    assert not come_often(execute, 20).special
    assert not come_often(execute, 20).special
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot reshape to (1, 24)" in caplog.text


def test_answer_stays_when_the_next_batch_runs(artifact: Artifact, tokens: list[Tokens]) -> None:
    execute = runtime(artifact, "openvino")
    first = execute(tokens[:1])
    copy = first.copy()
    for _ in range(4):  # more often than there are streams
        execute(tokens[1:2])
    assert (first == copy).all()


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from textmodel.classifier import load_classifier
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
first, second = (load_classifier(Path(sys.argv[1]), runtime="openvino") for _ in range(2))
del first
del second
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signal_after_models_came_and_went_is_handled(logistic_model: Path) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(logistic_model / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


ENDS_MEANWHILE = """
import sys, threading, time
from pathlib import Path
from textmodel.artifact import Artifact
from textmodel.compiled import Compiled, openvino_core
from textmodel.runtime import OpenVINORuntime
from textmodel.tokenizer import Tokens

def slowly(self, shape):
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        any_shape.create_infer_request()
    return of_shape(self, shape)

execute = OpenVINORuntime(Artifact.open(Path(sys.argv[1])), 0, "bf16")
any_shape = openvino_core().compile_model(execute._on_all_cores._graph, "CPU", {})
of_shape, Compiled._of_shape = Compiled._of_shape, slowly

def come_often():
    for _ in range(20):
        execute([Tokens([101] * 20)], urgent=True)

stream = threading.Thread(target=come_often, daemon=True)
stream.start()
stream.join()
assert execute._on_all_cores._making.is_alive()
print("the end")
"""


def test_an_interpreter_that_ends_while_a_graph_is_made_for_a_stream_ends_well(
    logistic_model: Path,
) -> None:
    command = [sys.executable, "-c", ENDS_MEANWHILE, str(logistic_model / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "the end\n"), done.stderr


def test_choices_are_told_with_their_reasons(artifact: Artifact) -> None:
    _, choices = load_runtime(artifact, 0, "openvino", "fp32")
    told = {choice.name: str(choice) for choice in choices}
    assert told["runtime"] == "runtime=openvino (as requested)"
    assert told["device"] == "device=cpu (OpenVINO runs on the CPU)"
    assert told.keys() == {"device", "runtime", "precision", "cpus"}


@pytest.fixture(scope="module")
def int8(int8_model: Path) -> Artifact:
    return Artifact.open(int8_model / "model")


def compared(artifact: Artifact, agreement: float, rows: int = 1904) -> Artifact:
    """Return a model of which int8 agreed with fp32 on this part of so many rows."""
    manifest = dataclasses.replace(artifact.manifest, int8_agreement=agreement, int8_rows=rows)
    return Artifact(artifact.directory, manifest)


@pytest.fixture
def made_for_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_int8", lambda: Choice("int8", True, "the CPU has it"))


@pytest.mark.usefixtures("made_for_int8")
def test_int8_that_labels_as_fp32_does_is_chosen(int8: Artifact) -> None:
    chosen = openvino_precision(compared(int8, 0.9979).manifest)
    assert str(chosen) == "precision=int8 (labels agree with fp32 on 99.7 % of 1904 texts)"


@pytest.mark.usefixtures("made_for_int8")
@pytest.mark.parametrize(
    ("agreement", "rows", "reason"),
    [
        (0.9811, 1904, "int8 is there, but agrees only on 98.1 %, below 99.5 %"),
        (0.99499, 1904, "int8 is there, but agrees only on 99.4 %, below 99.5 %"),
        (1.0, 199, "int8 is there, but was compared with fp32 on 199 texts only"),
    ],
)
def test_int8_that_may_label_otherwise_is_not_chosen(
    agreement: float, rows: int, reason: str, int8: Artifact
) -> None:
    chosen = openvino_precision(compared(int8, agreement, rows).manifest)
    assert chosen == Choice("precision", precision("cpu").value, reason)


def test_int8_is_not_chosen_on_a_cpu_that_is_not_made_for_it(
    int8: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cpu_int8", lambda: Choice("int8", False, "the CPU has no VNNI"))
    chosen = openvino_precision(compared(int8, 1.0).manifest)
    assert chosen.value == precision("cpu").value
    assert chosen.reason == "int8 is there, but the CPU has no VNNI"


def test_a_forest_gets_what_rounding_does_not_move(forest_model: Path, int8: Artifact) -> None:
    manifest = Artifact.open(forest_model / "model").manifest
    reason = "rounding would move a forest's scores"
    assert openvino_precision(manifest) == Choice("precision", "fp32", reason)
    compared_well = dataclasses.replace(compared(int8, 1.0).manifest, head="forest")
    assert openvino_precision(compared_well).value == "fp32"
    assert openvino_precision(manifest, "bf16") == Choice("precision", "bf16", "as requested")


def test_scores_of_a_forest_are_the_same_alone_and_together(forest_model: Path) -> None:
    classifier = load_classifier(forest_model / "model", runtime="openvino")
    tokens = classifier.tokenize([text for text, _ in messages(0, 200)])
    alone = np.array([classifier.execute([one])[0][1] for one in tokens])
    together = [
        scores
        for first in range(0, 200, 5)
        for _, scores in classifier.execute(tokens[first : first + 5])
    ]
    np.testing.assert_array_equal(alone, np.array(together))


@pytest.mark.parametrize("requested", ["int8", "bf16", "fp32"])
def test_requested_precision_wins(requested: str, int8: Artifact) -> None:
    chosen = openvino_precision(compared(int8, 0.5).manifest, requested)
    assert chosen == Choice("precision", requested, "as requested")


def test_int8_that_the_model_lacks_is_refused(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"no int8 graph.* train it with .* int8=true"):
        load_runtime(artifact, 0, "openvino", "int8")


def test_int8_is_refused_on_torch(int8: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"int8 needs the runtime openvino.* runtime=torch"):
        load_runtime(int8, 0, "torch", "int8")


def test_batch_in_int8_equals_single(int8: Artifact, tokens: list[Tokens]) -> None:
    execute = runtime(int8, "openvino", "int8")
    single = np.concatenate([execute([one]) for one in tokens])
    cosines = (execute(tokens) * single).sum(axis=1)  # of vectors of length 1, in bf16
    assert cosines.min() > 0.999


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_texts_of_the_greatest_length_are_executed(int8: Artifact, precision: str) -> None:
    # 250 and 255 are no widths that lengths are rounded to, and 256 is the last that there is.
    tokens = [Tokens([101] * length) for length in (250, 255, 256)]
    for batch in (tokens, *([one] for one in tokens)):
        for urgent in (False, True):
            execute = runtime(int8, "openvino", precision)
            assert np.isfinite(execute(batch, urgent=urgent)).all()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_lone_batches_get_the_answers_of_those_that_run_with_others(
    artifact: Artifact, tokens: list[Tokens]
) -> None:
    execute = runtime(artifact, "openvino")
    assert isinstance(execute, OpenVINORuntime)
    with execute._all_cores(urgent=True):  # from here on, there is another one
        together = [execute([one], urgent=True) for one in tokens]
    alone = [execute([one], urgent=True) for one in tokens]
    np.testing.assert_allclose(np.concatenate(alone), np.concatenate(together), atol=1e-5)


def test_batches_that_nobody_waits_for_get_the_same_bytes_whatever_else_runs(
    artifact: Artifact, tokens: list[Tokens]
) -> None:
    execute = runtime(artifact, "openvino")
    assert isinstance(execute, OpenVINORuntime)
    alone = [execute([one]) for one in tokens]
    with execute._all_cores(urgent=True):
        together = [execute([one]) for one in tokens]
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(together))


def test_runtime_that_the_model_lacks_is_refused(artifact: Artifact) -> None:
    other = dataclasses.replace(artifact.manifest, runtimes=("torch",))
    with pytest.raises(ArtifactError, match="cannot run on openvino; it was written for torch"):
        load_runtime(Artifact(artifact.directory, other), 0, "openvino")


def test_changed_graph_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    for name in ("encoder.xml", "encoder.bin"):
        (tmp_path / "openvino" / name).write_bytes(b"<net/>")
    with pytest.raises(ArtifactError, match=r"openvino/encoder\.xml is not the file"):
        load_runtime(Artifact(tmp_path, artifact.manifest), 0, "openvino")


def test_models_with_the_same_encoder_share_its_runtime_until_the_last_is_released(
    logistic_model: Path, forest_model: Path
) -> None:
    def load(tree: Path, precision: str = "fp32") -> Runtime:
        return load_runtime(Artifact.open(tree / "model"), 0, "openvino", precision)[0]

    first, second = load(logistic_model), load(forest_model)
    assert first is second
    assert load(logistic_model, "bf16") is not first
    released = weakref.ref(first)
    del first
    assert released() is second
    del second
    assert released() is None


def test_a_shared_encoder_is_compared_with_its_checksum_all_the_same(
    artifact: Artifact, tmp_path: Path
) -> None:
    intact = runtime(artifact, "openvino")
    shutil.copytree(artifact.directory, tmp_path / "model")
    (tmp_path / "model/openvino/encoder.bin").write_bytes(b"damage")
    with pytest.raises(ArtifactError, match=r"openvino/encoder\.bin is not the file"):
        load_runtime(Artifact(tmp_path / "model", artifact.manifest), 0, "openvino", "fp32")
    assert intact
