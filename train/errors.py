"""What can end a job early. Anything else that is raised is a bug in this program."""

__all__ = ["Stopped", "UserError"]


class UserError(Exception):
    """The job's input is at fault: the message says what is wrong and what to type."""


class Stopped(BaseException):
    """The platform asked the job to end. Not an `Exception`: no library may swallow it."""
