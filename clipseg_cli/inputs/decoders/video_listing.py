"""Which frames a video has, and when each is shown: from its packets, almost without decoding."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import av

from clipseg_cli.inputs.decoders.result import damaged, unsupported

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# The demuxer of each kind. It is never guessed: some of FFmpeg's demuxers open other files and addresses.
DEMUXERS = {"MP4": "mov", "Matroska": "matroska", "AVI": "avi"}
MPEG_DEMUXERS = {b"\0\0\x01\xba": "mpeg", b"\0\0\x01\xb3": "mpegvideo"}  # by the first bytes; others are "mpegts"
UNORDERED = ("avi", "mpegvideo")  # containers without presentation time stamps
MICROSECOND = Fraction(1, 1_000_000)  # the unit of a container's start time


class _Packet(NamedTuple):
    pts: int | None  # time stamp of presentation
    dts: int | None  # of decoding
    key: bool  # a keyframe
    shown: bool  # an edit list may exclude it: it is decoded only for others that refer to it


@dataclass(frozen=True, slots=True)
class Listing:
    """The frames of a video in the order in which they are shown."""

    times: tuple[float, ...]  # seconds since the start of the file, rising
    stamps: tuple[int, ...]  # time stamps, in the stream's unit; empty if frames can only be counted
    keys: tuple[int, ...]  # those of the keyframes, from which decoding can start


@contextmanager
def reasons() -> Iterator[None]:
    """Converts FFmpeg's errors into ImageError `corrupt`."""
    try:
        yield
    except av.FFmpegError as error:
        raise damaged(error.strerror or type(error).__name__) from error


def opened(kind: str, file: BinaryIO) -> "tuple[InputContainer, VideoStream]":
    """Opens a video and chooses the stream that a player shows. Raises ImageError."""
    file.seek(0)
    demuxer = DEMUXERS.get(kind) or MPEG_DEMUXERS.get(file.read(4), "mpegts")
    file.seek(0)
    with reasons():
        container = av.open(file, "r", format=demuxer, metadata_errors="replace")
    try:
        streams = [each for each in container.streams.video if not each.disposition & each.disposition.attached_pic]
        best = container.streams.best("video")
        stream = best if best in streams else next(iter(streams), None)
        if stream is None:
            raise unsupported("a file without a video stream", "give a video or an image")
        if stream.codec_context is None:
            raise unsupported("the codec of this video", "convert it to H.264, like ffmpeg -i IN OUT.mp4")
    except BaseException:
        container.close()
        raise
    return container, stream


def listing(kind: str, file: BinaryIO) -> Listing:
    """Returns the frames of a video, which are those that FFmpeg decodes. Raises ImageError.

    A frame whose packet is damaged is listed too. Where the container does not say in which order frames are shown, or
    gives two frames the same time, the whole video is decoded to count them.
    """
    container, stream = opened(kind, file)
    with container:
        packets = [
            _Packet(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard)
            for packet in demuxed(container, stream)
            if packet.size
        ]
        reordered = container.format.name in UNORDERED and any(packet.pts != packet.dts for packet in packets)
        zero, unit = _zero(container), stream.time_base or MICROSECOND
    found = None if reordered else _by_stamps(kind, file, packets)
    times = _counted(kind, file) if found is None else [float(stamp * unit - zero) for stamp in found[0]]
    if not times:
        raise damaged("it has no frame that can be decoded")
    stamps, keys = found or ([], [])
    return Listing(tuple(times), tuple(stamps), tuple(keys))


def _zero(container: "InputContainer") -> Fraction:
    """Returns when a player starts to count, in seconds."""
    return Fraction(container.start_time or 0) * MICROSECOND


def demuxed(container: "InputContainer", stream: "VideoStream") -> "Iterator[Packet[VideoStream]]":
    """Yields the packets of a stream, then an empty one. Damage ends it, as the end of the file does."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        return


def _by_stamps(kind: str, file: BinaryIO, packets: list[_Packet]) -> tuple[list[int], list[int]] | None:
    """Returns the time stamps of all frames and of the keyframes, rising; None if they do not identify the frames."""
    keys = [number for number, packet in enumerate(packets) if packet.key and packet.pts is not None]
    if not keys:
        return None
    start = packets[keys[0]].pts or 0
    second = keys[1] if len(keys) > 1 else len(packets)
    usual, leading = [], False
    for number, (pts, _, _, shown) in enumerate(packets):
        if shown and number >= keys[0] and pts is not None and pts >= start:
            usual.append(pts)
        elif shown and number >= second:
            return None
        else:
            leading |= shown
    # Frames before the first keyframe refer to others that a cut has removed; most are never shown.
    before = _leading(kind, file, start) if leading else set[int]()
    if before is None or len(set(usual)) < len(usual):
        return None
    return sorted({*usual, *before}), sorted({packets[number].pts or 0 for number in keys})


def _leading(kind: str, file: BinaryIO, start: int) -> set[int] | None:
    """Returns the time stamps of the frames that are shown before the first keyframe; None if a frame has none."""
    container, stream = opened(kind, file)
    with container:
        shown: set[int] = set()
        for frame in decoded(stream, demuxed(container, stream)):
            if frame is None:
                continue
            if frame.pts is None:
                return None
            if frame.pts >= start:
                break
            shown.add(frame.pts)
    return shown


def _counted(kind: str, file: BinaryIO) -> list[float]:
    """Returns the times of all frames that can be decoded, in seconds.

    Where the container has no times, and for frames without a time of their own, they follow at the mean rate.
    """
    container, stream = opened(kind, file)
    with container:
        step = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
        unit, timeless = stream.time_base or MICROSECOND, container.format.name in UNORDERED
        zero, times = None, list[Fraction]()
        for frame in decoded(stream, demuxed(container, stream)):
            if frame is None:
                continue
            stamp = Fraction(0) if frame.pts is None or timeless else frame.pts * unit
            zero = stamp if zero is None else zero
            later = not times or stamp - zero > times[-1]
            times.append(stamp - zero if later else times[-1] + step)
    return [float(each) for each in times]


def decoded(stream: "VideoStream", packets: "Iterable[Packet[VideoStream]]") -> "Iterator[VideoFrame | None]":
    """Yields the frames of packets in the order in which they are shown; None for a packet that is damaged."""
    cut = set[int | None]()  # time stamps of packets that lack bytes: not every decoder notices
    for packet in packets:
        if packet.is_corrupt:
            cut.add(packet.pts)
        try:
            for frame in stream.codec_context.decode(packet):
                yield None if frame.pts in cut else frame
        except av.FFmpegError:
            yield None
