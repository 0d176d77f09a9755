"""Which frames of a video are read: listed in a process of its own, which a hostile file may crash, then chosen."""

import json
import os
import pickle
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.decoders.result import damaged
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.videos import VideoOptions

LIMIT = 600  # seconds to list the frames of one video: it is read once from its start to its end
START = "import sys; sys.path[:] = sys.argv[1:]; from clipseg_cli.inputs.frames.videos import serve; serve()"


def frame_times(source: Source) -> list[float]:
    """Returns when each frame of a video is shown, in seconds from the start of the file, in rising order.

    Raises ImageError, also if the process that reads the file crashes or takes more than `LIMIT` seconds.
    """
    command = [sys.executable, "-c", START, *sys.path]
    plain = pickle.dumps(replace(source, error=None))
    try:
        done = subprocess.run(command, input=plain, capture_output=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise damaged(f"its frames could not be listed within {LIMIT} s") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise damaged(f"the process that listed its frames ended with code {done.returncode}") from error
    if "error" in answer:
        raise ImageError(answer["error"], "load", answer["message"])
    return [float(time) for time in answer["times"]]


def serve() -> None:
    """Lists the frames of the video that is named on stdin, and writes their times or the error to stdout as JSON."""
    with os.fdopen(os.dup(0), "rb") as named:
        source: Source = pickle.load(named)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not write into the answer
    try:
        with decode.opened(source) as file, decode.enough_memory():
            kind, decoder = decode.recognised(file)
            answer = {"times": decoder.times(kind, file)}
    except ImageError as error:
        answer = {"error": error.kind, "message": str(error)}
    with answers:
        json.dump(answer, answers)


def chosen(times: Sequence[float], options: VideoOptions) -> list[int]:
    """Returns the numbers of the frames that the options choose, rising, each once. `times` rise, in seconds.

    `every` counts from the first frame after `start`. `fps` takes the frame nearest to each tick of that rate, where
    the first tick is that frame's time; of two equally near frames the earlier one.
    """
    first = bisect_left(times, options.start or 0.0)
    last = len(times) if options.end is None else bisect_left(times, options.end)
    if options.fps is None or first >= last:
        return list(range(first, last, options.every or 1))
    numbers = dict[int, None]()
    for tick in range(int((times[last - 1] - times[first]) * options.fps + 1e-6) + 1):
        wanted = times[first] + tick / options.fps
        later = min(bisect_left(times, wanted, first, last), last - 1)
        earlier = max(first, later - 1)
        numbers[earlier if wanted - times[earlier] <= times[later] - wanted + 1e-6 else later] = None
    return list(numbers)
