"""Sparse matrices, as scipy.sparse.save_npz writes them: checked before scipy reads them."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np

from serve.errors import BadRequest
from serve.npy import read_npy

__all__ = ["read_npz"]

LARGEST = 2**28
"""Bytes of all parts together, unpacked: a small body can hold many zeros."""
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (
    # what zipfile and scipy raise where bytes are none of theirs
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError),
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
)


def read_npz(body: bytes) -> Any:
    """Return a sparse matrix of the class that the body names.

    Raises:
        BadRequest: it is none, or larger than LARGEST, or holds Python objects.
    """
    from scipy.sparse import load_npz

    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            _check(archive)
        matrix = load_npz(io.BytesIO(body))
        if hasattr(matrix, "indptr"):
            _check_indices(matrix)
    except _BROKEN as error:
        raise BadRequest(
            f"the body is no sparse matrix that scipy.sparse.save_npz wrote: {error}"
        ) from None
    return matrix


def _check(archive: zipfile.ZipFile) -> None:
    size = sum(part.file_size for part in archive.infolist())
    if size > LARGEST:
        raise BadRequest(
            f"the matrix has {size / 1e6:.0f} MB unpacked; at most {LARGEST / 1e6:.0f} MB are read"
        )
    for part in archive.infolist():
        if part.compress_type not in _PACKED:
            raise BadRequest("the matrix is packed in another way than save_npz does it")
        array = read_npy(archive.read(part))
        if array.dtype.hasobject:
            raise BadRequest("the matrix holds Python objects, which are not unpickled here")
        array.check_size()


def _check_indices(matrix: Any) -> None:
    """Raise ValueError where an index is outside the matrix: scipy would read foreign memory."""
    matrix.check_format(full_check=True)
    if (np.diff(matrix.indptr) < 0).any():  # not looked at there if the last one is 0
        raise ValueError("indptr must be a non-decreasing sequence")
