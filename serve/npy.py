"""What an npy body says it holds, and whether it does.

`np.load` would make an array as large as the header says before it looks for the data.
"""

from __future__ import annotations

import io
import math
import tokenize
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.errors import BadRequest

__all__ = ["Npy", "read_npy"]

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class Npy:
    """An npy file whose data nobody has looked at yet."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    data: bytes

    def check_size(self) -> None:
        """Raise BadRequest where the data are not as long as the header says."""
        size = math.prod(self.shape) * self.dtype.itemsize
        if not self.dtype.itemsize or size != len(self.data):
            raise BadRequest(
                f"the body has not the size of an array of {self.dtype} of shape {self.shape}"
            )


def read_npy(body: bytes) -> Npy:
    """Read the header of an npy file.

    Raises:
        BadRequest: it has none.
    """
    file = io.BytesIO(body)
    try:
        shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except (KeyError, ValueError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise BadRequest(f"the body is no npy file: {error}. Send what numpy.save writes") from None
    return Npy(shape, by_columns, dtype, body[file.tell() :])
