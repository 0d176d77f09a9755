"""Which frames of a video are read: listed in another process, chosen by --every, --fps, --start and --end."""

from pathlib import Path

import pytest

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import decode, kinds
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.inputs.frames import videos
from clipseg_cli.inputs.frames.videos import chosen, frame_times
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.flag import options
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.videos import VideoOptions
from pictures import picture, save
from video_files import X264, encoded, shown

STEADY = [number / 25 for number in range(100)]  # four seconds
UNEVEN = [0.0, 0.1, 0.11, 0.12, 0.5, 1.0, 1.01, 2.0]


@pytest.mark.parametrize(
    "times, wanted, numbers",
    [
        (STEADY, {}, [*range(100)]),
        (STEADY, {"every": 40}, [0, 40, 80]),
        (STEADY, {"fps": 1.0}, [0, 25, 50, 75]),
        (STEADY, {"fps": 1000.0}, [*range(100)]),
        (STEADY, {"fps": 10.0, "end": 0.4}, [0, 2, 5, 7]),
        (STEADY, {"start": 1.0, "end": 1.12}, [25, 26, 27]),
        (STEADY, {"start": 1.0, "every": 30}, [25, 55, 85]),
        (STEADY, {"start": 9.0}, []),
        (UNEVEN, {"fps": 2.0}, [0, 4, 5, 6, 7]),
        (UNEVEN, {"fps": 10.0}, [0, 1, 3, 4, 5, 6, 7]),
        ([], {"fps": 2.0}, []),
    ],
)
def test_frames_are_chosen_by_time(times: list[float], wanted: dict[str, float], numbers: list[int]) -> None:
    """--every counts frames, --fps takes the nearest to each tick and none twice, --end is exclusive."""
    assert chosen(times, VideoOptions(**wanted)) == numbers


@pytest.mark.parametrize("text, seconds", [("90", 90), ("12.5", 12.5), ("1:30", 90), ("01:00:00.250", 3600.25)])
def test_times_are_seconds_or_clock_times(text: str, seconds: float) -> None:
    """Both forms are read."""
    parse = next(option.flag.parse for option in options(VideoOptions) if option.name == "start")
    assert parse is not None and parse(text) == seconds
    for wrong in ("-1", "1:90", "x", "", "1:2:3:4", "nan", "1e3"):
        with pytest.raises(UsageError):
            parse(wrong)


@pytest.mark.parametrize("wrong", [{"every": 2, "fps": 1.0}, {"fps": 0.0}, {"start": 3.0, "end": 2.0}, {"end": 0.0}])
def test_choices_that_cannot_be_meant_are_refused(wrong: dict[str, float]) -> None:
    """Two rates, no rate and an end before the start are usage errors."""
    with pytest.raises(UsageError):
        VideoOptions(**wrong)


def test_discovery_yields_the_frames_of_videos(tmp_path: Path) -> None:
    """Each frame has its number, time and output; the options leave still images alone."""
    (tmp_path / "a").mkdir()
    path = encoded(tmp_path / "a/clip.mp4", *X264, count=30)
    save(tmp_path / "a/still.png", picture(40, 30, 0))
    found = [*discover(InputOptions((str(tmp_path / "a"),), video=VideoOptions(every=10, start=0.1)), None)]
    assert [(source.output, source.frame) for source in found] == [
        *((f"clip/{number:06}", number) for number in (3, 13, 23)),
        ("still", None),
    ]
    assert [source.time for source in found[:3]] == pytest.approx([0.12, 0.52, 0.92])
    first = [*discover(InputOptions((str(path),), frames="first"), None)]
    assert [(source.output.rpartition("/")[2], source.frame) for source in first] == [("clip", None)]
    assert [source.frame for source in discover(InputOptions((str(path),), frames="4:9:2"), None)] == [4, 6, 8]


def test_listing_agrees_with_ffmpeg_for_a_file_and_for_bytes(tmp_path: Path) -> None:
    """A path and the same bytes from standard input have the same frames."""
    path = encoded(tmp_path / "a.mp4", *X264, count=30)
    times = frame_times(Source(str(path), "a.mp4", "a"))
    assert times == pytest.approx(shown(path)) and len(times) == 30
    assert frame_times(Source("-", "-", "stdin", data=path.read_bytes())) == times


def test_a_file_that_cannot_be_listed_is_one_failed_source(tmp_path: Path) -> None:
    """A damaged video, an empty one and a text have an error of their class; the walk goes on."""
    for name, data in (("a.mp4", b"\0\0\0\x18ftypisom" + bytes(999)), ("b.mkv", b"\x1aE\xdf\xa3" + bytes(99))):
        (tmp_path / name).write_bytes(data)
    found = [*discover(InputOptions((str(tmp_path),)), None)]
    assert [source.error.kind for source in found if source.error] == ["corrupt", "corrupt"]


@pytest.mark.parametrize("crash", ["import os; os.abort()", "import time; time.sleep(99)", "print('x')"])
def test_a_process_that_dies_fails_the_video_alone(monkeypatch: pytest.MonkeyPatch, crash: str) -> None:
    """A crash, silence and a wrong answer of the process that lists frames become `corrupt`."""
    monkeypatch.setattr(videos, "START", crash)
    monkeypatch.setattr(videos, "LIMIT", 2)
    with pytest.raises(ImageError) as caught:
        frame_times(Source("a.mp4", "a.mp4", "a"))
    assert caught.value.kind == "corrupt"


def test_without_the_extra_a_video_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video is one source, whose error has the pip line; images are read as before."""
    encoded(tmp_path / "a.mp4", *X264, count=3)
    monkeypatch.setattr(kinds.importlib.util, "find_spec", lambda name: None)
    (source,) = discover(InputOptions((str(tmp_path),), video=VideoOptions(every=2)), None)
    with pytest.raises(ImageError) as caught:
        decode.load(source)
    assert caught.value.kind == "unsupported" and "pip install 'clipseg-cli[video]'" in str(caught.value)
