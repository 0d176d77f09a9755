"""Video files for tests: frames that carry their number, encoded by a real ffmpeg, which is also the oracle."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np

WIDTH, HEIGHT, COUNT = 192, 128, 60
BIT = 16  # pixels: side of the squares, bright or dark, that hold a frame's number
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "veryfast")
# Files of every container and codec that ffmpeg writes and people have.
FILES: dict[str, tuple[str, ...]] = {
    "h264.mp4": (*X264, "-g", "20"),
    "one_gop.mp4": (*X264, "-g", "250"),
    "open_gop.mkv": (*X264, "-g", "20", "-x264-params", "open-gop=1:bframes=3"),
    "fragmented.mp4": (*X264, "-g", "20", "-movflags", "frag_keyframe+empty_moov"),
    "refresh.mov": (*X264, "-x264-params", "intra-refresh=1:keyint=20"),
    "interlaced.mp4": (*X264, "-flags", "+ildct+ilme", "-x264-params", "tff=1"),
    "camera.m2ts": (*X264, "-g", "20"),
    "old.avi": (*X264, "-bf", "2"),
    "hevc.mp4": ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=error:keyint=20"),
    "ten_bit.mkv": (
        "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error:keyint=20:open-gop=1",
    ),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "5", "-g", "20"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"),
    "prores.mov": ("-c:v", "prores_ks"),
    "ffv1.mkv": ("-c:v", "ffv1", "-pix_fmt", "yuv420p"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", "3", "-bf", "2"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-q:v", "3", "-bf", "2"),
    "mpeg2_interlaced.mpg": ("-c:v", "mpeg2video", "-q:v", "3", "-bf", "2", "-flags", "+ildct+ilme"),
    "mpeg1.mpg": ("-c:v", "mpeg1video", "-q:v", "3", "-bf", "2"),
    "vfr.mkv": (*X264, "-vf", r"setpts='(N+mod(N*N\,7)/8)/25/TB'", "-fps_mode", "vfr"),
    "dropped.mp4": (*X264, "-vf", r"select='not(eq(mod(n\,3)\,1))'", "-fps_mode", "vfr"),
}  # fmt: skip


def numbered(count: int = COUNT, width: int = WIDTH, height: int = HEIGHT) -> Iterator[np.ndarray]:
    """Yields frames with their number in eight squares, over a ground that moves: uint8 (H, W, 3)."""
    small = np.random.default_rng(0).integers(60, 190, (-(-height // 16), -(-width // 16), 3), np.uint8)
    ground = small.repeat(16, 0).repeat(16, 1)[:height, :width]
    for index in range(count):
        frame = np.roll(ground, index, 1)
        for bit in range(8):
            frame[:BIT, bit * BIT : (bit + 1) * BIT] = 235 if index >> bit & 1 else 20
        yield frame


def number(pixels: np.ndarray) -> int:
    """Returns the number that a frame carries."""
    middles = [pixels[4:12, bit * BIT + 4 : bit * BIT + 12].mean() > 128 for bit in range(8)]
    return sum(int(bright) << bit for bit, bright in enumerate(middles))


def ffmpeg(*arguments: str | Path, stdin: bytes | None = None, tells: bool = False) -> bytes:
    """Runs ffmpeg and returns its stdout or, if it `tells`, what it says about the files, even if it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "info" if tells else "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=not tells)
    return done.stderr if tells else done.stdout


@cache
def _raw(count: int) -> bytes:
    return b"".join(frame.tobytes() for frame in numbered(count))


def encoded(path: Path, *arguments: str, count: int = COUNT, sound: bool = False) -> Path:
    """Writes the numbered frames as a video of 25 frames per second."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", "-")
    tone = ("-f", "lavfi", "-i", f"sine=duration={count / 25}", "-c:a", "aac") if sound else ()
    ffmpeg(*raw, *tone, *arguments, path, stdin=_raw(count))
    return path


def shown(path: Path) -> list[float]:
    """Returns when ffmpeg, which decodes the whole file, shows each frame, in seconds."""
    crc = ffmpeg("-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framecrc", "-").decode()
    unit = next(line.split()[2] for line in crc.splitlines() if line.startswith("#tb"))
    over, under = map(int, unit.split("/"))
    return [int(line.split(",")[2]) * over / under for line in crc.splitlines() if line[:1] == "0"]


def picture(path: Path, index: int, width: int, height: int, scale: str = "") -> np.ndarray:
    """Returns a frame as ffmpeg shows it, turned and with square pixels: uint8 (H, W, 3)."""
    chain = f"select=eq(n\\,{index}),scale={width}:{height}:flags=bilinear+full_chroma_int{scale}"
    raw = ffmpeg("-i", path, "-vf", chain, "-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3)
