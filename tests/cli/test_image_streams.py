"""Images one after another on stdin, and their masks on stdout: in order, at once, in constant memory."""

import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.finding.image_stream import images
from pictures import Program, Shell, iou, picture, records


def saved(image: np.ndarray, form: str) -> bytes:
    """Returns the bytes of an RGB image in one of Pillow's formats."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, form)
    return file.getvalue()


SEGMENT = "clipseg segment - -p red"
FORMS = ("JPEG", "PNG", "PPM", "WEBP", "BMP", "JPEG", "GIF")
FRAMES = [saved(picture(160 + 8 * number, 120, number), form) for number, form in enumerate(FORMS)]


def opened(data: bytes) -> list[Image.Image]:
    """Returns the images of a stream, which must have nothing else."""
    found = list(images(io.BytesIO(data), b"", 10**8))
    assert not [each for each in found if isinstance(each, ImageError)]
    return [Image.open(io.BytesIO(each)) for each in found if isinstance(each, bytes)]


def test_masks_follow_one_another_on_stdout(quick_clipseg: Program, tmp_path: Path) -> None:
    """In the order of the images, byte for byte those of a folder; also by default if stdin and stdout are pipes."""
    done = quick_clipseg(f"{SEGMENT} -o -", stdin=b"".join(FRAMES))
    quick_clipseg(f"{SEGMENT} -f mask -o out", stdin=b"".join(FRAMES))
    masks = [tmp_path / f"out/masks/red/stdin/{number:06}.png" for number in range(1, len(FRAMES) + 1)]
    assert os.fsencode(done.stdout) == b"".join(mask.read_bytes() for mask in masks)
    assert "7 of 7 images done" in done.stderr and "-> stdout" in done.stderr
    assert quick_clipseg("clipseg segment -p red", stdin=b"".join(FRAMES)).stdout == done.stdout
    rows = records(tmp_path / "out/manifest.jsonl")
    assert [row["image"] for row in rows] == [f"-#{number}" for number in range(1, 8)]
    assert [row["format"] for row in rows] == list(FORMS)


def test_files_may_go_to_stdout_too(quick_clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """A folder's masks follow one another in the order of its images."""
    done = quick_clipseg("clipseg segment imgs -p red -o -")
    paths = quick_clipseg("clipseg segment imgs -p red -f mask -o out").stdout.splitlines()
    assert os.fsencode(done.stdout) == b"".join((tmp_path / path).read_bytes() for path in paths) and len(paths) == 4


@pytest.mark.parametrize(
    ("options", "form", "mode"),
    [("-o -", "PNG", "L"), ("-o -.pgm", "PPM", "L"), ("-f overlay -o -", "JPEG", "RGB"), ("-o -.ppm", "PPM", "RGB"),
     ("-f overlay -o -.png", "PNG", "RGB"), ("-f cutout -o -", "PNG", "RGBA"), ("-f soft -o -.webp", "WEBP", "RGB")],
)  # fmt: skip
def test_outputs_are_encoded_as_the_name_of_stdout_says(
    quick_clipseg: Program, options: str, form: str, mode: str
) -> None:
    """`-` is the usual kind of file of the format. Each has the size of its image."""
    found = opened(os.fsencode(quick_clipseg(f"{SEGMENT} {options}", stdin=b"".join(FRAMES)).stdout))
    assert {(each.format, each.mode) for each in found} == {(form, mode)}
    assert [each.size for each in found] == [(160 + 8 * number, 120) for number in range(7)]


def test_a_failed_image_has_no_output(quick_clipseg: Program, tmp_path: Path) -> None:
    """The others keep their order, stderr names it, and the exit code is 3. A stream that breaks off is the same: what
    came before is done."""
    whole = opened(os.fsencode(quick_clipseg(f"{SEGMENT} -o -", stdin=b"".join(FRAMES)).stdout))
    middle = len(FRAMES[1]) // 2
    broken = FRAMES[1][:middle] + bytes(9) + FRAMES[1][middle + 9 :]
    done = quick_clipseg(f"{SEGMENT} -o -", stdin=FRAMES[0] + broken + b"".join(FRAMES[2:4]), expect=3)
    assert [each.size for each in opened(os.fsencode(done.stdout))] == [whole[index].size for index in (0, 2, 3)]
    assert "failed -#2: corrupt" in done.stderr and "3 of 4 images done, 1 failed" in done.stderr
    cut = quick_clipseg(f"{SEGMENT} -o out", stdin=b"".join(FRAMES)[: -len(FRAMES[-1]) - 9], expect=3)
    assert "5 of 6 images done" in cut.stderr and "failed -#6: corrupt" in cut.stderr
    assert [row["status"] for row in records(tmp_path / "out/manifest.jsonl")] == ["ok"] * 5 + ["failed"]
    done = quick_clipseg(f"{SEGMENT} -o - --max-errors 1", stdin=FRAMES[0] + broken + FRAMES[2], expect=1)
    assert "stopped: 1 images failed" in done.stderr


def test_what_cannot_share_a_stream_is_a_usage_error(quick_clipseg: Program) -> None:
    """Two uses of stdin, two of stdout, and several images for one file."""
    frames = b"".join(FRAMES)
    for arguments in ("- -", "- --files-from -", "- --embedding -"):
        assert "twice" in quick_clipseg(f"clipseg segment {arguments} -p red -o -", stdin=frames, expect=2).stderr
    assert "both write to stdout" in quick_clipseg(f"{SEGMENT} -o - --json", stdin=frames, expect=2).stderr
    assert "takes one image" in quick_clipseg(f"{SEGMENT} -o mask.png", stdin=frames, expect=2).stderr
    quick_clipseg(f"{SEGMENT} -o mask.png", stdin=FRAMES[0])
    rows = quick_clipseg("clipseg segment -p red --json", stdin=frames).stdout.splitlines()
    assert len(rows) == 7  # the records, since the user wants those


@pytest.fixture
def live(tmp_path: Path, quick_environment: dict[str, str]) -> Iterator[Popen[bytes]]:
    """A run that reads images from a pipe and writes masks to another."""
    command = [sys.executable, "-m", "clipseg_cli", *SEGMENT.split()[1:], "-o", "-"]
    with Popen(command, cwd=tmp_path, env=quick_environment, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        yield process
        process.kill()


def test_a_mask_does_not_wait_for_the_next_image(live: Any) -> None:
    """Each is read before the next image is sent, and the network is loaded once."""
    masks = images(live.stdout, b"", 10**6)
    for frame in FRAMES:
        live.stdin.write(frame)
        live.stdin.flush()
        mask = next(masks)
        assert isinstance(mask, bytes) and Image.open(io.BytesIO(mask)).size == Image.open(io.BytesIO(frame)).size
    live.stdin.close()
    assert live.wait() == 0 and live.stderr.read().count(b"model fake") == 1


def test_a_closed_stdout_ends_a_run_that_waits_for_images(live: Any) -> None:
    """With the next mask, 0 and no message, although stdin stays open."""
    live.stdin.write(FRAMES[0])
    live.stdin.flush()
    assert live.stdout.read(8) == FRAMES[1][:8]
    live.stdout.close()
    live.stdin.write(FRAMES[1])
    live.stdin.flush()
    assert live.wait(60) == 0 and live.stderr.read() == b"model fake\n"


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_a_stream_that_goes_on(quick_shell: Shell, tmp_path: Path) -> None:
    """`| head` and `--limit` end the program with 0 while more images come, and say nothing of it."""
    (tmp_path / "frame.jpg").write_bytes(FRAMES[0])
    endless = "while cat frame.jpg; do :; done 2> /dev/null"
    done = quick_shell(f"({endless}) | {SEGMENT} -o - | head -c 1000 | wc -c; echo ${{PIPESTATUS[1]}}", expect=None)
    assert done.stdout.split() == ["1000", "0"] and done.stderr.splitlines() == ["model fake"]
    done = quick_shell(f"({endless}) | {SEGMENT} -o - --limit 9 > masks; echo ${{PIPESTATUS[1]}}", expect=None)
    assert done.stdout == "0\n" and len(opened((tmp_path / "masks").read_bytes())) == 9


def video(path: Path, frames: int) -> list[np.ndarray]:
    """Writes a video of a red circle that moves past a blue square. Returns its masks."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "160x128"]
    masks = []
    with Popen([*command, "-r", "10", "-i", "-", str(path)], stdin=PIPE) as process:
        assert process.stdin is not None
        for number in range(frames):
            image, mask = np.full((128, 160, 3), 220, np.uint8), np.zeros((128, 160), np.uint8)
            cv2.rectangle(image, (70, 10), (100, 40), (40, 60, 200), -1)
            for canvas, colour in ((image, (214, 40, 40)), (mask, (255,))):
                cv2.circle(canvas, (30 + 100 * number // frames, 85), 24, colour, -1)
            process.stdin.write(image.tobytes())
            masks.append(mask)
    return masks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "options"),
    [("mjpeg -q:v 2", "-f overlay -o -"), ("png", "-o -"), ("ppm", "-o -.pgm"), ("bmp", "-f overlay -o -.ppm")],
)
def test_a_video_goes_through_ffmpeg_at_both_ends(shell: Shell, tmp_path: Path, codec: str, options: str) -> None:
    """As many frames come out as went in, and each has the circle of its own frame."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    ffmpeg = f"{imageio_ffmpeg.get_ffmpeg_exe()} -v error"
    expected = video(tmp_path / "in.mp4", 30)
    shell(
        f"{ffmpeg} -i in.mp4 -f image2pipe -c:v {codec} - | clipseg segment - -p 'a red circle' {options}"
        f" | {ffmpeg} -framerate 10 -f image2pipe -i - out.mp4"
    )
    raw = shell(
        f"{ffmpeg} -i out.mp4 -f rawvideo -pix_fmt rgb24 - > raw; {ffmpeg} -i in.mp4 -f rawvideo -pix_fmt rgb24 - > was"
    )
    assert raw.stderr == ""
    found, was = (np.fromfile(tmp_path / name, np.uint8).reshape(-1, 128, 160, 3) for name in ("raw", "was"))
    assert len(found) == len(was) == 30
    for frame, before, mask in zip(found, was, expected, strict=True):
        seen = frame[..., 0] > 127 if "overlay" not in options else np.abs(frame.astype(int) - before).max(axis=2) > 60
        assert iou(seen[61:], mask[61:]) > 0.8  # the label stands above the circle


PEAK = """
import atexit, re, sys
from pathlib import Path
status = Path("/proc/self/status")
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1], file=sys.stderr))
from clipseg_cli.cli.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak memory in /proc")
def test_a_stream_takes_the_same_memory_at_any_length(quick_shell: Shell, tmp_path: Path) -> None:
    """500 frames take at most 40 megabytes more than 100, though 270 MB of pixels more pass through.

    Any two runs differ by up to 15 megabytes: what threads allocate depends on how they take turns.
    """
    noise = np.random.default_rng(0).integers(0, 255, (360, 640, 3), dtype=np.uint8)
    (tmp_path / "frame.jpg").write_bytes(saved(noise, "JPEG"))
    (tmp_path / "peak.py").write_text(PEAK)
    program = SEGMENT.replace("clipseg", f"{shutil.which(sys.executable)} peak.py", 1)
    peaks = []
    for count in (100, 500):
        frames = f"for i in $(seq {count}); do cat frame.jpg; done"
        done = quick_shell(f"({frames}) | {program} -f overlay -o - > out")
        assert len(opened((tmp_path / "out").read_bytes())) == count
        peaks.append(int(done.stderr.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 40_000, peaks  # kilobytes
