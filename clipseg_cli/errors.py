"""All errors of this program, as one tree. Each class has an exit code; only `cli.main` handles them.

    ClipsegError            1   fatal
    ├── UsageError          2   a flag, a prompt, a configuration file
    ├── NoInputError        4   no input matched
    ├── ModelError          1   weights missing, damaged or refused
    ├── OutputError         1   disk full, output refused
    ├── TooManyErrors       1   the number of failed images reached --max-errors
    └── ImageError          3   one image failed: the run records it and continues

A message says what is wrong, where, and what to try.
"""

import re
from typing import Literal, get_args

ErrorClass = Literal[
    "empty",  # zero bytes
    "unsupported",  # not an image, or a format or pixel mode that cannot be read
    "corrupt",  # starts like an image, then cannot be decoded
    "too_large",  # more pixels than --max-pixels
    "vanished",  # does not exist: deleted after it was listed, mistyped, or a dangling link
    "changed",  # modified while being read
    "permission",  # not readable by this user
    "not_a_file",  # a folder, socket or device in place of a file
    "output_conflict",  # a file or folder is in the way of its output
    "out_of_memory",
    "worker_died",  # its worker process died twice, or loading took too long
    "internal",  # a bug in this program
]
ERROR_CLASSES: tuple[str, ...] = get_args(ErrorClass)

Stage = Literal["discover", "load", "encode", "decode", "mask", "write"]


class ClipsegError(Exception):
    """An error that ends the run. `str(error)` is the message shown to the user."""

    exit_code = 1


class UsageError(ClipsegError):
    """The command line, a prompt or a configuration file is wrong."""

    exit_code = 2


class NoInputError(ClipsegError):
    """No image matched the inputs and filters."""

    exit_code = 4


class ModelError(ClipsegError):
    """The model cannot be found, downloaded, trusted or read."""


class OutputError(ClipsegError):
    """The output cannot be written, or must not be overwritten."""


class TooManyErrors(ClipsegError):
    """The number of failed images reached --max-errors."""


class ImageError(ClipsegError):
    """One image failed, at the stage `stage`. The run continues, and the manifest records the reason."""

    exit_code = 3

    def __init__(self, kind: ErrorClass, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.kind: ErrorClass = kind
        self.stage: Stage = stage

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Pickles the error with its kind and stage, so that a worker process can send it back."""
        return ImageError, (self.kind, self.stage, str(self))


def lacks_memory(error: Exception) -> bool:
    """Returns whether an error of torch, OpenCV or Python means that memory ran out."""
    matched = re.search("out of memory|not enough memory|nsufficient memory|allocate memory|bad_alloc", str(error))
    return isinstance(error, MemoryError) or matched is not None
