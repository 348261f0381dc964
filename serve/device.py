"""A GPU that is lost to this process: after most errors of CUDA no call to it succeeds again."""

from __future__ import annotations

from serve.errors import causes

__all__ = ["is_lost"]


def is_lost(error: BaseException) -> bool:
    """Return whether an error, or one that it came from, ended the use of the GPU.

    Those are what torch raises as AcceleratorError and, before version 2.8, as RuntimeError: an
    illegal access, a failed assertion, a launch that failed. Want of memory is none of them.
    """
    return any(
        isinstance(cause, RuntimeError)
        and (type(cause).__name__ == "AcceleratorError" or "CUDA error:" in str(cause))
        and "out of memory" not in str(cause)
        for cause in causes(error)
    )
