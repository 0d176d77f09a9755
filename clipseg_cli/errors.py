"""Everything that can go wrong, as one tree. Each class knows its exit code; `cli.main` is the only handler.

    ClipsegError            1   fatal
    ├── UsageError          2   a flag, a prompt, a configuration file
    ├── NoInputError        4   no input matched
    ├── ModelError          1   weights missing, damaged or refused
    ├── OutputError         1   disk full, output refused
    ├── TooManyErrors       1   as many failed images as --max-errors allows
    └── ImageError          3   one image failed: it becomes a record and the run goes on

A message says what is wrong, where, and what to try.
"""

import re
from typing import Literal, get_args

ErrorClass = Literal[
    "empty",  # zero bytes
    "unsupported",  # not an image, or a format or pixel mode that is not read
    "corrupt",  # starts like an image and is broken
    "too_large",  # more pixels than --max-pixels
    "vanished",  # listed, then gone; mistyped; a link that leads nowhere
    "changed",  # modified while it was read
    "permission",  # may not be read
    "not_a_file",  # a folder, socket or device where a file was named
    "output_conflict",  # its output path is taken by another image or by a folder
    "out_of_memory",
    "worker_died",  # the process that handled it was killed
    "internal",  # a defect of this program
]
ERROR_CLASSES: tuple[str, ...] = get_args(ErrorClass)

Stage = Literal["discover", "load", "encode", "decode", "mask", "write"]


class ClipsegError(Exception):
    """A failure that ends the run. `str(error)` is the line shown to the user."""

    exit_code = 1


class UsageError(ClipsegError):
    """The command line, a prompt or a configuration file is wrong."""

    exit_code = 2


class NoInputError(ClipsegError):
    """No image matched the inputs and filters."""

    exit_code = 4


class ModelError(ClipsegError):
    """The model cannot be found, fetched, trusted or read."""


class OutputError(ClipsegError):
    """The output cannot be written, or must not be."""


class TooManyErrors(ClipsegError):
    """As many images failed as the user wants to see."""


class ImageError(ClipsegError):
    """One image failed at one stage; the run goes on and the manifest carries the reason."""

    exit_code = 3

    def __init__(self, kind: ErrorClass, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.kind: ErrorClass = kind
        self.stage: Stage = stage

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Pickles with its class and stage, so that a worker process can send it back."""
        return ImageError, (self.kind, self.stage, str(self))


def lacks_memory(error: Exception) -> bool:
    """Whether this is one of the many ways in which torch, OpenCV and Python say so."""
    said = re.search("out of memory|not enough memory|nsufficient memory|allocate memory|bad_alloc", str(error))
    return isinstance(error, MemoryError) or said is not None
