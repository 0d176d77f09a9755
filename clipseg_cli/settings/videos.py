"""Which frames of videos to read, and how their masks are steadied."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag


def _seconds(text: str) -> float:
    """Returns seconds for `90`, `1:30`, `00:01:30.5`. Raises UsageError."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
        plain = all(part.replace(".", "", 1).isdecimal() and part.isascii() for part in parts)
        if plain and len(parts) <= 3 and all(number < 60 for number in numbers[1:]):
            return float(sum(number * 60.0**power for power, number in enumerate(reversed(numbers))))
    except ValueError:
        pass
    raise UsageError(f"{text}: give a time in seconds, like 90 or 12.5, or as HH:MM:SS, like 00:01:30.500")


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """Which frames of videos to read, and how steady their masks are. Images are not affected.

    Raises UsageError for values that cannot be meant.
    """

    PANEL: ClassVar[str] = "Video"

    every: Annotated[int | None, Flag("Only every Nth frame of a video.", metavar="N", low=1)] = None
    fps: Annotated[
        float | None,
        Flag("Only this many frames per second of a video: those nearest in time.", metavar="F", low=0.0),
    ] = None
    start: Annotated[
        float | None,
        Flag("Begin at this time of a video: seconds, or HH:MM:SS.", metavar="TIME", parse=_seconds, spell=repr),
    ] = None
    end: Annotated[
        float | None,
        Flag("End before this time of a video: seconds, or HH:MM:SS.", metavar="TIME", parse=_seconds, spell=repr),
    ] = None
    smooth: Annotated[
        float,
        Flag(
            "Steady the masks of a video: average soft maps over frames up to this many seconds before and after, "
            "never across a scene change. 0.2 is a good start.",
            metavar="SECONDS",
            low=0.0,
            default="",
            decides=True,
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        if self.every is not None and self.fps is not None:
            raise UsageError("--every and --fps both choose frames: give one of them")
        if self.fps is not None and not (0 < self.fps < math.inf):
            raise UsageError(f"--fps {self.fps}: give a number of frames per second above 0")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise UsageError(f"--end {self.end:g} must be later than --start {self.start or 0.0:g}")
        if not math.isfinite(self.smooth):
            raise UsageError(f"--smooth {self.smooth}: give a number of seconds")
