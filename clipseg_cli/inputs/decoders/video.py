"""Videos, through FFmpeg (PyAV): single frames as a player shows them, found by their time stamps.

Frames are turned by the display matrix and scaled to square pixels. Interlaced frames are not split into fields, and
high dynamic range is not tone-mapped; a note says so.
"""

import contextlib
import itertools
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.colour.conversion import BACKGROUND
from clipseg_cli.inputs.decoders import video_listing
from clipseg_cli.inputs.decoders.result import MOST_FRAMES, Decoded, check_size, damaged
from clipseg_cli.settings.inputs import DecodeOptions

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Decoding threads. The network runs beside them; more threads also hold more frames, 12 MB each at 4K.
THREADS = 2
NEAR = 8  # frames: a keyframe this near is reached sooner by decoding than by seeking
# Colour matrices by their number in ITU-T H.273.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
HD = 720  # lines from which players assume BT.709 if a video does not name its matrix; BT.601 below
HDR = {16: "PQ", 18: "HLG"}  # transfer curves by their number in ITU-T H.273
MATRIX = struct.Struct("=9i")  # a display matrix: fixed point numbers
SAME_SIZE = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT  # five times as fast as with exact rounding
SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes the first frame of a video. Raises ImageError."""
    video = Video(kind, file, options)
    return video.decode(0)._replace(frames=min(len(video.listing.times), MOST_FRAMES))


def sequence(kind: str, file: BinaryIO, options: DecodeOptions) -> "Video":
    """Opens a video to decode any of its frames. Raises ImageError."""
    return Video(kind, file, options)


def times(kind: str, file: BinaryIO) -> list[float]:
    """Returns when each frame is shown, in seconds from the start of the file, in rising order. Raises ImageError."""
    return list(video_listing.listing(kind, file).times)


class Video:
    """The frames of an open video. Not safe for several threads at once.

    Every frame is decoded from the keyframe before it, so it has the same pixels however it is reached. A frame that
    the decoder conceals or drops is `corrupt`; those that follow it up to the next keyframe carry a note.
    """

    def __init__(self, kind: str, file: BinaryIO, options: DecodeOptions) -> None:
        self.kind, self.file, self.max_pixels = kind, file, options.max_pixels
        self.listing = video_listing.listing(kind, file)
        self.times = self.listing.times
        self.reformatter = VideoReformatter()
        self.matrix: bytes | None = None  # the display matrix; None: not read yet
        self._open()

    def decode(self, index: int) -> Decoded:
        """Decodes the frame of this number, from 0. Raises ImageError."""
        if not 0 <= index < len(self.listing.times):
            raise damaged(f"it has no frame {index}")
        with video_listing.reasons():
            frame = self._found(index) if self.listing.stamps else self._counted(index)
            if frame is None or frame.is_corrupt:
                raise ImageError("corrupt", "load", f"frame {index} is damaged; the other frames are not affected")
            notes = ["frames before it are damaged, so this one may be"] if self.harmed else []
            pixels = self._upright(frame, notes)
        return Decoded(pixels, 1, notes)

    def _open(self) -> None:
        """Opens the file at its first frame. Raises ImageError if frames are too large."""
        self.container, self.stream = video_listing.opened(self.kind, self.file)
        context = self.stream.codec_context
        context.thread_count, context.thread_type = THREADS, "AUTO"
        # the decoder refuses larger frames in the middle of a video; with a margin, since it counts whole blocks
        context.options = {"max_pixels": str(2 * self.max_pixels + 65536)}
        check_size(context.width, context.height, self.max_pixels)
        self._begin(video_listing.demuxed(self.container, self.stream), 0, None)

    def _begin(self, packets: "Iterator[Packet[VideoStream]]", origin: int, start: int | None) -> None:
        """Decodes these packets from now on; frames before the time stamp `start` are dropped."""
        self.decoded = video_listing.decoded(self.stream, packets)
        self.origin, self.start = origin, start  # origin: the number of the keyframe
        self.frame: VideoFrame | None = None  # the last one that was decoded
        self.passed = -1 if start is None else bisect_left(self.listing.stamps, start) - 1  # its number
        self.harmed = False  # a frame since the last keyframe is damaged

    def _counted(self, index: int) -> "VideoFrame | None":
        """Returns a frame of a video whose frames have no reliable time stamps: counted from the start."""
        if index < self.passed:
            self._reopen()
        return self._forward(index)

    def _found(self, index: int) -> "VideoFrame | None":
        """Returns a frame by its time stamp; None if it never comes."""
        stamps, keys = self.listing.stamps, self.listing.keys
        before = max(0, bisect_right(keys, stamps[index]) - 1)
        if index < self.passed or bisect_left(stamps, keys[before]) - self.passed > NEAR:
            self._seek(index, before)
        frame = self._forward(index)
        if frame is None and self.origin > (earlier := max(0, before - 2)):
            self._seek(index, earlier)  # after some keyframes it takes up to the next one until frames are whole
            frame = self._forward(index)
        return frame

    def _forward(self, index: int) -> "VideoFrame | None":
        """Decodes up to a frame and returns it; None if it does not come."""
        while self.passed < index and self._advance():
            pass
        return self.frame if self.passed == index else None

    def _advance(self) -> bool:
        """Decodes one more frame. Returns False at the end of the video."""
        for frame in self.decoded:
            if frame is None:
                self.harmed = True
                continue
            number = self.passed + 1
            if self.listing.stamps:
                if frame.pts is None or (self.start is not None and frame.pts < self.start):
                    continue
                number = bisect_left(self.listing.stamps, frame.pts)
            gap = self.frame is not None and number > self.passed + 1
            self.harmed = frame.is_corrupt or ((self.harmed or gap) and not frame.key_frame)
            self.frame, self.passed = frame, number
            return True
        self.frame, self.passed = None, len(self.listing.times)
        return False

    def _seek(self, index: int, key: int) -> None:
        """Goes to the keyframe of this number, or to an earlier one if the container does not hit it."""
        while key > 0:
            with contextlib.suppress(av.FFmpegError):
                self.container.seek(self.listing.keys[key], stream=self.stream)
                packets = video_listing.demuxed(self.container, self.stream)
                # after a seek in an MPEG file the first packets may have wrong time stamps
                first = next((each for each in packets if each.is_keyframe and each.pts in self.listing.keys), None)
                if first is not None and (start := first.pts or 0) <= self.listing.stamps[index]:
                    self._begin(itertools.chain([first], packets), self.listing.keys.index(start), start)
                    return
            key //= 2
        self._reopen()

    def _reopen(self) -> None:
        self.container.close()
        self._open()

    def _upright(self, frame: "VideoFrame", notes: list[str]) -> NDArray[np.uint8]:
        """Returns a frame as a player shows it: uint8 (H, W, 3) RGB. Adds notes. Raises ImageError `too_large`."""
        width, height = _square(frame.width, frame.height, self.stream.sample_aspect_ratio)
        check_size(width, height, self.max_pixels)
        name = frame.format.name
        transparent = any(component.is_alpha for component in frame.format.components)
        full = frame.color_range == ColorRange.JPEG or name.startswith("yuvj") or frame.format.is_rgb
        unnamed = Colorspace.ITU709 if frame.height >= HD else Colorspace.ITU601
        rgb = self.reformatter.reformat(
            frame,
            width,
            height,
            "rgba" if transparent else "rgb24",
            src_colorspace=0 if frame.format.is_rgb else MATRICES.get(frame.colorspace, unnamed),
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=SAME_SIZE if (width, height) == (frame.width, frame.height) else SCALING,
            threads=1,
        )
        pixels = np.asarray(rgb.to_ndarray(), np.uint8)
        if transparent and (alpha := pixels[..., 3:]).min() < 255:
            notes.append("transparency composited on white")
            share = alpha.astype(np.float32) / 255
            white = np.array(BACKGROUND, np.float32)
            pixels = np.rint(pixels[..., :3] * share + white * (1 - share)).astype(np.uint8)
        if frame.color_trc in HDR:
            notes.append(f"{HDR[frame.color_trc]} high dynamic range read without tone mapping")
        if frame.interlaced_frame:
            notes.append("interlaced: both fields in one image")
        if self.matrix is None:  # PyAV keeps a frame whose side data was read for long, so only one is asked
            side: Any = frame.side_data  # its type in PyAV is that of another one
            self.matrix = bytes(side["DISPLAYMATRIX"]) if "DISPLAYMATRIX" in side else b""
        return _turned(pixels[..., :3], self.matrix)


def _square(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Returns the size in square pixels of a frame whose pixels have this aspect; no side shrinks."""
    if not aspect or aspect <= 0:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _turned(pixels: NDArray[np.uint8], matrix: bytes) -> NDArray[np.uint8]:
    """Applies a display matrix, rounded to quarter turns and mirrorings, to an image, uint8 (H, W, 3)."""
    if len(matrix) != MATRIX.size:
        return pixels
    a, b, _, c, d, *_ = MATRIX.unpack(matrix)  # x' = a x + c y, y' = b x + d y
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
