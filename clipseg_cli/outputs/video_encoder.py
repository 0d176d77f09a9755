"""Writes one video file through FFmpeg (PyAV): frames with time stamps, and the sound of another file."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from clipseg_cli.errors import OutputError
from clipseg_cli.settings.outputs import Codec

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer

UNIT = Fraction(1, 90_000)  # second: the time stamps of written videos; Matroska and WebM round them to milliseconds
BT709 = 1  # in ITU-T H.273


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a codec is used."""

    encoders: tuple[str, ...]  # FFmpeg's names, the preferred one first
    pixels: dict[int, str]  # FFmpeg's pixel format for 1 channel (grey), 3 (RGB) and 4 (RGBA)
    muxer: str
    options: dict[str, str]
    sound: tuple[str, ...]  # codecs that are copied; () for all
    recode: str = "aac"  # the encoder of other sound
    options_of: dict[str, dict[str, str]] = field(default_factory=dict)  # of single encoders


ENCODINGS: dict[Codec, Encoding] = {
    "ffv1": Encoding(
        ("ffv1",), {1: "gray", 3: "bgr0", 4: "bgra"}, "matroska", {"level": "3", "g": "1", "slicecrc": "1"}, ()
    ),
    "h264": Encoding(
        ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf", "mpeg4"),
        dict.fromkeys((1, 3), "yuv420p"),
        "mp4",
        {},
        ("aac", "mp3", "ac3", "eac3", "opus", "alac"),
        options_of={
            "libx264": {"crf": "18", "preset": "veryfast", "rc-lookahead": "5", "bf": "0"},  # holds few frames
            "mpeg4": {"qscale": "2"},
        },
    ),
    "vp9": Encoding(
        ("libvpx-vp9",),
        {1: "yuv420p", 3: "yuv420p", 4: "yuva420p"},
        "webm",
        {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "6", "auto-alt-ref": "0"},
        ("opus", "vorbis"),
        "libopus",
    ),
    "prores": Encoding(
        ("prores_ks",),
        {1: "yuv422p10le", 3: "yuv422p10le", 4: "yuva444p10le"},
        "mov",
        {"vendor": "apl0"},
        ("aac", "mp3", "ac3", "alac", "pcm_s16le", "pcm_s24le", "pcm_s16be"),
    ),
}


class Encoder:
    """A video that is being written. Use it with `with`; the file is complete afterwards."""

    def __init__(self, path: Path, codec: Codec, rate: float, sound: "Sound | None" = None) -> None:
        self.path, self.encoding = path, ENCODINGS[codec]
        self.rate = Fraction(min(max(rate, 0.01), 1000)).limit_denominator(1001)
        self.sound = sound
        self.stream: Any = None
        self.before = -1  # the last time stamp

    def __enter__(self) -> Self:
        options = {"fflags": "+bitexact"}  # the same bytes from the same run: no random identifiers
        self.container: OutputContainer = av.open(str(self.path), "w", format=self.encoding.muxer, options=options)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None and self.stream is not None:
                self.container.mux(self.stream.encode(None))
                if self.sound is not None:
                    self.container.mux(list(self.sound.until(None)))
        finally:
            self.container.close()

    def write(self, pixels: NDArray[np.uint8], time: float) -> None:
        """Writes a frame that is shown at `time` seconds: uint8 (H, W), grey, (H, W, 3), RGB, or (H, W, 4), RGBA.

        All frames have the same shape. Times rise. H.264 and VP9 need even sides: the last row or column is repeated.
        """
        shape, channels = pixels.shape[:2], 1 if pixels.ndim == 2 else pixels.shape[2]
        form = self.encoding.pixels[channels]
        if "420" in form or "422" in form:
            pixels = np.pad(pixels, [(0, shape[0] % 2), (0, shape[1] % 2), *[(0, 0)] * (pixels.ndim - 2)], "edge")
        if self.stream is None:
            self._begin(pixels.shape[1], pixels.shape[0], form)
        names = {1: "gray", 3: "rgb24", 4: "rgba"}
        frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), names[channels])
        if form.startswith("yuv"):
            frame = frame.reformat(
                format=form,
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                threads=1,  # with more, FFmpeg 8.1 sets some opacities at the seams to a half
            )
        self.before = max(self.before + 1, round(time / UNIT))
        frame.pts, frame.time_base = self.before, UNIT
        if self.sound is not None:
            self.container.mux(list(self.sound.until(time)))
        self.container.mux(self.stream.encode(frame))

    def _begin(self, width: int, height: int, form: str) -> None:
        encoder = next((name for name in self.encoding.encoders if _has(name)), None)
        if encoder is None:
            raise OutputError(
                f"this build of PyAV has no encoder {self.encoding.encoders[0]}: choose another --codec, or leave out "
                "-f video"
            )
        options = self.encoding.options | self.encoding.options_of.get(encoder, {})
        if encoder == "prores_ks":
            options |= {"profile": "4444" if form.startswith("yuva") else "standard"}
        self.stream = self.container.add_stream(encoder, rate=self.rate, options=options)
        context = self.stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, form
        context.time_base = self.stream.time_base = UNIT
        context.thread_count = 2  # the network has finished; more threads would hold more frames
        if form.startswith("yuv"):
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = ColorRange.MPEG
        if self.sound is not None:
            self.sound.join(self.container, self.encoding)


class Sound:
    """The sound of a video, from the first to the last of the frames that are written. It copies what it can."""

    def __init__(self, container: "InputContainer", first: float, last: float) -> None:
        self.input = container.streams.audio[0]
        self.zero = Fraction(container.start_time or 0, 1_000_000)
        # from the start on, also the packet before it, with which some codecs begin
        self.first, self.last = first if first > 0.1 else -math.inf, last
        self.packets: Iterator[Any] = container.demux(self.input)
        self.waiting: Any = None

    @staticmethod
    def of(file: BinaryIO, container: "InputContainer", times: Sequence[float], step: float) -> "Sound | None":
        """Returns the sound of an open video; None if it has none."""
        return Sound(container, times[0], times[-1] + step) if container.streams.audio else None

    def join(self, container: "OutputContainer", encoding: Encoding) -> None:
        """Adds the sound to a video."""
        name = self.input.codec_context.name
        self.copied = not encoding.sound or name in encoding.sound
        if self.copied:
            self.output: Any = container.add_stream_from_template(self.input)
        else:
            rate = 48_000 if encoding.recode == "libopus" else self.input.codec_context.sample_rate
            self.output = container.add_stream(encoding.recode, rate=rate)
            self.output.codec_context.layout = "stereo" if self.input.codec_context.channels > 1 else "mono"
            context = self.output.codec_context
            self.resampler = AudioResampler(context.format, context.layout, rate, 960 if rate == 48_000 else 1024)

    def until(self, time: float | None) -> Iterator[Any]:
        """Yields the packets up to this time, or all that remain."""
        while (packet := self.waiting or next(self.packets, None)) is not None:
            self.waiting = None
            at = None if packet.pts is None else float(packet.pts * packet.time_base - self.zero)
            if at is not None and time is not None and at > time:
                self.waiting = packet
                return
            if at is not None and at >= self.last:
                break
            if at is not None and at >= self.first:
                yield from self._written(packet)
        if time is None and not self.copied:
            yield from self.output.encode(None)

    def _written(self, packet: Any) -> Iterator[Any]:
        if self.copied:
            shift = round(self.zero / packet.time_base)
            packet.pts -= shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            packet.stream = self.output
            yield packet
            return
        for decoded in packet.decode():
            decoded.pts = None if decoded.pts is None else decoded.pts - round(self.zero / decoded.time_base)
            for frame in self.resampler.resample(decoded):
                yield from self.output.encode(frame)


def _has(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except (ValueError, av.FFmpegError):
        return False
    return True
