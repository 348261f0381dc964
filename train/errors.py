"""What can end a job early, and what the platform is told of it."""

from __future__ import annotations

import errno

__all__ = ["INTERNAL_ERROR", "STOPPED", "USER_ERROR", "PeerLost", "Stopped", "UserError", "outcome"]

USER_ERROR, INTERNAL_ERROR, STOPPED = 1, 70, 143
"""Exit codes."""

_MACHINE = {
    errno.ENOSPC: "the disk is full; give the job a larger volume (VolumeSizeInGB)",
    errno.EACCES: "the container's user may not use this file",
    errno.EEXIST: "a file stands where a directory should be",
    errno.ENOTDIR: "a file stands where a directory should be",
    errno.EROFS: "the file system is mounted read-only",
}
"""What the machine can lack; no fault of the input, and no bug."""


class UserError(Exception):
    """The job's input is at fault: the message says what is wrong and what to type."""


class PeerLost(UserError):
    """Another process of the job is gone; the cause is in its log, not in this one's."""


class Stopped(BaseException):
    """The platform asked the job to end. Not an `Exception`: no library may swallow it."""


def outcome(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the reason of a job that an error has ended."""
    if isinstance(error, Stopped):
        return STOPPED, f"stopped by {error} before a model was finished; the old one is as it was"
    if isinstance(error, UserError):
        return USER_ERROR, str(error)
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return USER_ERROR, f"{_MACHINE[error.errno]}: {error}"
    return INTERNAL_ERROR, (
        f"bug in optml, not in your input: {type(error).__name__}: {error}\n"
        "The log has the traceback."
    )
