"""Videos through a whole run: masks of frames, `--smooth`, `-f video` with its time stamps, sound and alpha, resume."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from output_folder import tree
from pictures import Program, Shell, picture, records, save
from video_files import HEIGHT, WIDTH, X264, encoded, ffmpeg, shown

slow = pytest.mark.slow


def frames_of(path: Path, form: str = "rgb24") -> list[np.ndarray]:
    """Returns all frames of a video as PyAV decodes them."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=form) for frame in container.decode(video=0)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of drawn scenes that drift, 12 frames of 200 x 150 pixels at 25 frames per second, with sound."""
    (tmp_path / "i").mkdir()
    still = picture(200, 150, 1)
    raw = b"".join(np.roll(still, 2 * number, 1).tobytes() for number in range(12))
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "200x150", "-r", "25", "-i", "-")
    tone = ("-f", "lavfi", "-i", "sine=duration=0.48", "-c:a", "aac", "-shortest")
    ffmpeg(*source, *tone, *X264, "-crf", "10", tmp_path / "i/clip.mp4", stdin=raw)
    return tmp_path / "i/clip.mp4"


def test_a_frame_has_the_masks_of_the_same_image(clipseg: Program, clip: Path, tmp_path: Path) -> None:
    """Its mask is that of the decoded frame as a PNG; its row has number and time; --every chooses."""
    for number, frame in enumerate(frames_of(clip)):
        save(tmp_path / f"stills/{number:06}.png", frame)
    clipseg("clipseg segment i -p 'a red circle' --every 5 -f mask -o out")
    clipseg("clipseg segment stills -p 'a red circle' -f mask -o stills-out")
    masks, stills = tree(tmp_path / "out/masks"), tree(tmp_path / "stills-out/masks")
    assert sorted(masks) == [f"a-red-circle/clip/{number:06}.png" for number in (0, 5, 10)]
    from clipseg_cli.outputs.writers import raster

    for name, data in masks.items():
        other = raster.levels(stills[name.replace("clip/", "")])
        assert np.mean(raster.levels(data) != other) < 0.01  # PyAV's own conversion assumes another matrix
    rows = records(tmp_path / "out/manifest.jsonl")
    assert [(row["frame"], row["time"]) for row in rows] == [(0, 0.0), (5, 0.2), (10, 0.4)]


def test_videos_of_masks_overlays_and_cutouts(clipseg: Program, clip: Path, tmp_path: Path) -> None:
    """They have the frames and times of the source; masks are lossless, overlays have sound, cutouts alpha."""
    save(tmp_path / "i/still.png", picture(60, 40, 0))
    command = "clipseg segment i -p 'a red circle' -p green -f mask,overlay,cutout -o"
    clipseg(f"{command} files")
    clipseg(f"{command} films -f video")
    films, files = tmp_path / "films/videos", tree(tmp_path / "files")
    assert {str(path.relative_to(films)) for path in films.rglob("*.m*")} == {
        "masks/a-red-circle/clip.mkv", "masks/green/clip.mkv", "overlays/clip.mp4",
        "cutouts/a-red-circle/clip.mov", "cutouts/green/clip.mov",
    }  # fmt: skip
    from clipseg_cli.outputs.writers import raster

    for number, mask in enumerate(frames_of(films / "masks/green/clip.mkv", "gray")):
        assert np.array_equal(mask, raster.levels(files[f"masks/green/clip/{number:06}.png"]))
    for path in films.rglob("*.m*"):
        assert np.allclose(shown(path), shown(clip), atol=0.0006)
    with av.open(str(films / "overlays/clip.mp4")) as made, av.open(str(clip)) as source:
        assert [bytes(packet) for packet in made.demux(audio=0)] == [bytes(packet) for packet in source.demux(audio=0)]
    cutout = frames_of(films / "cutouts/a-red-circle/clip.mov", "rgba")[3]
    mask = frames_of(films / "masks/a-red-circle/clip.mkv", "gray")[3]
    assert np.abs(cutout[..., 3].astype(int) - mask).max() <= 8
    stills = {name for name in tree(tmp_path / "films") if "still" in name and not name.startswith(".")}
    assert stills == {name for name in files if "still" in name and not name.startswith(".")}
    row = next(row for row in records(tmp_path / "films/manifest.jsonl") if row["image"] == "i/clip.mp4")
    assert row["masks"][1]["video"] == "videos/masks/green/clip.mkv" and row["masks"][1]["path"] == ""


@pytest.mark.slow
def test_a_repeated_run_keeps_videos_and_makes_missing_ones(clipseg: Program, clip: Path, tmp_path: Path) -> None:
    """Finished videos stay untouched; a deleted one and one with a lost mask are written again, alike."""
    command = "clipseg segment i -p green -f video -o out"
    clipseg(command)
    mask, overlay = tmp_path / "out/videos/masks/green/clip.mkv", tmp_path / "out/videos/overlays/clip.mp4"
    before, made = mask.read_bytes(), mask.stat().st_mtime_ns
    overlay.unlink()
    clipseg(command)
    assert overlay.exists() and mask.stat().st_mtime_ns == made
    (tmp_path / "out/.clipseg-parts/video/masks/green/clip/000003.png").unlink()
    assert "(11 before)" in clipseg(command).stderr
    assert mask.stat().st_mtime_ns != made and mask.read_bytes() == before


@pytest.mark.parametrize("codec, ends", [("vp9", ".webm"), ("ffv1", ".mkv"), ("h264", ".mp4"), ("prores", ".mov")])
def test_codecs(clipseg: Program, clip: Path, tmp_path: Path, codec: str, ends: str) -> None:
    """Each codec has a container of its own, odd sides and other sound are no obstacle, and cutouts keep alpha."""
    ffmpeg("-i", clip, "-vf", "crop=199:149", *X264[:2], "-pix_fmt", "yuv444p", "-c:a", "pcm_s16le", tmp_path / "o.mov")
    clipseg(f"clipseg segment o.mov -p 'a red circle' -f video,mask,overlay,cutout --codec {codec} --every 3 -o out")
    films = tmp_path / "out/videos"
    assert {path.suffix for path in films.rglob("o.*") if "cutouts" not in str(path)} == {ends}
    for path in films.rglob("o.*"):
        assert np.allclose(shown(path), shown(clip)[::3], atol=0.0011)
    with av.open(str(films / f"overlays/o{ends}")) as container:
        assert len(container.streams.audio) == 1
    cutout = next((films / "cutouts").rglob("o.*"))
    decoder = ("-c:v", "libvpx-vp9") if codec == "vp9" else ()
    raw = ffmpeg(*decoder, "-i", cutout, "-frames:v", "1", "-pix_fmt", "rgba", "-f", "rawvideo", "-")
    assert {0, 255} <= {*np.frombuffer(raw, np.uint8)[3::4]}


def test_a_broken_frame_is_a_failed_row_and_an_empty_mask(clipseg: Program, tmp_path: Path) -> None:
    """The other frames are done; the videos have as many frames as there are rows, and the failed one is empty."""
    path = encoded(tmp_path / "a.avi", "-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p", count=8)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][4]
    data[packet.pos + 16 : packet.pos + packet.size - 16] = bytes(packet.size - 32)
    path.write_bytes(data)
    clipseg("clipseg segment a.avi -p 'everything' -t 0 -f video -o out", expect=3)
    rows = records(tmp_path / "out/manifest.jsonl")
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["failed"] + ["ok"] * 3
    assert rows[4]["error"]["class"] == "corrupt" and rows[4]["frame"] == 4
    masks = frames_of(tmp_path / "out/videos/masks/everything/a.mkv", "gray")
    assert [bool(mask.any()) for mask in masks] == [True] * 4 + [False] + [True] * 3
    assert len(frames_of(tmp_path / "out/videos/overlays/a.mp4")) == 8
    assert masks[0].shape == (HEIGHT, WIDTH)


def test_smoothed_masks_depend_on_the_file_alone(clipseg: Program, clip: Path, tmp_path: Path) -> None:
    """A run in two halves and one of chosen frames write the bytes of a whole run; without --smooth they differ."""
    command = "clipseg segment i -p 'a red circle' -f soft"
    clipseg(f"{command} --smooth 0.1 -o whole")
    clipseg(f"{command} --smooth 0.1 -o halves --every 3")
    assert "(4 before)" in clipseg(f"{command} --smooth 0.1 -o halves -b 1").stderr
    clipseg(f"{command} -o plain")
    whole = tree(tmp_path / "whole/soft")
    assert len(whole) == 12 and tree(tmp_path / "halves/soft") == whole
    assert tree(tmp_path / "plain/soft") != whole
    assert json.loads((tmp_path / "whole/run.json").read_text())["settings"]["smooth"] == 0.1


@slow
def test_sam_refines_smoothed_masks(clipseg: Program, clip: Path, tmp_path: Path) -> None:
    """SAM is asked about the averaged soft maps: `post`, which has these alone, writes the same bytes. The masks differ
    from those without --smooth."""
    command = "clipseg segment i -p 'a red circle' --every 4 -f mask,soft"
    clipseg(f"{command} --smooth 0.2 --refine sam -o smooth")
    clipseg(f"{command} --refine sam -o each")
    clipseg("clipseg post smooth --refine sam -f mask -o post")
    masks = [tree(tmp_path / name / "masks") for name in ("smooth", "post", "each")]
    assert len(masks[0]) == 3 and masks[0] == masks[1] != masks[2]
    assert all(row["masks"][0]["refined"] for row in records(tmp_path / "smooth/manifest.jsonl"))


@slow
def test_several_workers_smooth_alike(shell: Shell, clip: Path, tmp_path: Path) -> None:
    """Two worker processes, each of which gets some of the frames, write the bytes of one."""
    for jobs in (1, 2):
        shell(f"clipseg segment i -p 'a red circle' -f soft --smooth 0.1 -q -j {jobs} -o out{jobs}")
    assert tree(tmp_path / "out1/soft") == tree(tmp_path / "out2/soft")


@pytest.mark.slow
def test_post_writes_videos_too(clipseg: Program, clip: Path, tmp_path: Path) -> None:
    """`post` with the run's options writes the videos of the run."""
    clipseg("clipseg segment i -p green -f soft,video,mask -o run")
    clipseg("clipseg post run -f video,mask -o again")
    name = "videos/masks/green/clip.mkv"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@pytest.mark.slow
def test_a_source_that_is_gone_is_named(clipseg: Program, clip: Path, tmp_path: Path) -> None:
    """If the video cannot be read again, the message says so, and the run can be repeated."""
    clipseg("clipseg segment i -p green -f video,mask,overlay,soft -o run")
    shutil.move(clip, tmp_path / "elsewhere.mp4")
    said = clipseg("clipseg post run -f video,overlay -o again", expect=1).stderr
    assert "clip.mp4" in said and "no such file" in said
