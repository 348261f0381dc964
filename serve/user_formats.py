"""Bodies to data and back, for user code that leaves it to us: as AWS's two toolkits do it.

A Hugging Face script gets what JSON says, and CSV by its header; any other gets numbers as an
array, or as a tensor where its model is one of torch. Sparse matrices are for arrays alone.

Sources: decoder.py and encoder.py of sagemaker-inference 1.10.1, decoder_encoder.py of
sagemaker-huggingface-inference-toolkit 2.6.0. Unlike those, nothing is unpickled here.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from datetime import date
from typing import Any, Literal

import numpy as np

from serve.decoders import CSV, JSON, NPY
from serve.errors import BadRequest, UnsupportedMediaType
from serve.npy import read_npy
from serve.npz import read_npz

__all__ = [
    "DECODERS",
    "ENCODERS",
    "NPZ",
    "as_array",
    "as_is",
    "as_tensor",
    "decode",
    "encode",
    "torch_device",
]

PLAIN, NPZ = "text/plain", "application/x-npz"

Numbers = Callable[[Any], Any]
"""What becomes of data that may be numbers."""


def decode(data: str | bytes, media_type: str, numbers: Numbers) -> Any:
    """Read a body.

    Raises:
        UnsupportedMediaType: the type is not in DECODERS.
        BadRequest: the body is not what its type promises.
    """
    decoder = DECODERS.get(media_type)
    if decoder is None:
        raise UnsupportedMediaType(
            f"Content-Type {media_type!r} is not read here without an input_fn; "
            f"send {', '.join(DECODERS)}"
        )
    try:
        return decoder(data, numbers)
    except (ValueError, EOFError, RecursionError) as error:
        raise BadRequest(f"the body is not {media_type}: {error}") from None


def encode(content: Any, media_type: str) -> bytes:
    """Write a prediction; `media_type` is one of ENCODERS.

    Raises:
        ValueError, TypeError: it cannot be expressed in that type.
    """
    return ENCODERS[media_type](content)


def as_is(value: Any) -> Any:
    """Return what is given."""
    return value


def as_array(value: Any) -> Any:
    """Return an array of numbers, or what is none as it is."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return value
    return array if array.dtype.kind in "biuf" else value


def as_tensor(value: Any) -> Any:
    """Return a tensor on the GPU, if there is one, or what is no number as it is.

    Lists become floats, an array keeps its type.
    """
    torch = sys.modules["torch"]  # the model is one of torch
    array = as_array(value)
    if not isinstance(array, np.ndarray):
        return value
    tensor = torch.from_numpy(array)
    if not isinstance(value, np.ndarray):
        tensor = tensor.float()
    return tensor.to(torch_device())


def torch_device() -> str:
    """Return the device of a torch that was imported already."""
    return "cuda" if sys.modules["torch"].cuda.is_available() else "cpu"


def _read_json(data: str | bytes, numbers: Numbers) -> Any:
    return numbers(json.loads(data))


def _read_csv(data: str | bytes, numbers: Numbers) -> Any:
    text = data if isinstance(data, str) else data.decode()
    rows = list(csv.reader(io.StringIO(text)))
    header = [cell.strip() for cell in rows[0]] if rows else []
    if {"inputs", "question", "context"} & set(header):
        records = [dict(zip(header, row, strict=True)) for row in rows[1:] if row]
        alone = "inputs" in header
        return {"inputs": [record["inputs"] for record in records] if alone else records}
    if numbers is as_is:
        raise BadRequest("CSV needs a header with the column inputs here")
    array = np.genfromtxt(io.StringIO(text), dtype=None, delimiter=",", encoding=None)
    return numbers(array.tolist() if numbers is as_tensor else array)


def _read_npy(data: str | bytes, numbers: Numbers) -> Any:
    assert isinstance(data, bytes), "only JSON and CSV are handed on as texts"
    array = read_npy(data)
    if array.dtype.hasobject:
        raise BadRequest("the array holds Python objects, which are not unpickled here")
    array.check_size()
    order: Literal["F", "C"] = "F" if array.by_columns else "C"
    own = bytearray(array.data)  # a copy, which user code may write to
    return numbers(np.ndarray(array.shape, array.dtype, own, order=order))


def _read_npz(data: str | bytes, numbers: Numbers) -> Any:
    assert isinstance(data, bytes), "only JSON and CSV are handed on as texts"
    if numbers is not as_array:
        raise UnsupportedMediaType(
            f"Content-Type {NPZ}, a sparse matrix, is not read for this model without an input_fn; "
            f"send {NPY}"
        )
    return read_npz(data)


def _read_plain(data: str | bytes, numbers: Numbers) -> Any:
    return {"inputs": data if isinstance(data, str) else data.decode()}


DECODERS: dict[str, Callable[[str | bytes, Numbers], Any]] = {
    JSON: _read_json,
    CSV: _read_csv,
    NPY: _read_npy,
    NPZ: _read_npz,
    PLAIN: _read_plain,
}


def _write_json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, default=_plain_value).encode(
        "utf-8", "replace"
    )


def _plain_value(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, date):
        return str(value)
    raise TypeError(f"JSON has no form for {type(value).__name__}")


def _write_csv(content: Any) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    rows = content.tolist() if hasattr(content, "tolist") else content
    rows = list(rows) if isinstance(rows, (list, tuple)) else [rows]
    if rows and isinstance(rows[0], dict):
        writer.writerow(rows[0])
        rows = [[row[name] for name in rows[0]] for row in rows]
    writer.writerows(row if isinstance(row, (list, tuple)) else [row] for row in rows)
    return buffer.getvalue().encode("utf-8", "replace")


def _write_npy(content: Any) -> bytes:
    array = np.asarray(content.tolist() if hasattr(content, "cpu") else content)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


ENCODERS: dict[str, Callable[[Any], bytes]] = {JSON: _write_json, CSV: _write_csv, NPY: _write_npy}
