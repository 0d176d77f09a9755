"""Frames through a whole run: one record a frame, the masks of still images, resume, `post`, `eval` and the report."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from output_folder import assert_whole, tree
from pictures import Program, Shell, picture, records, save

COUNT = 4
SHOWN = ["i/clip.png", *(f"i/clip.png#{index}" for index in range(1, COUNT))]  # the names of the frames
PEAK = (  # runs a command, then prints the most memory in kilobytes of any process in it
    "import resource as r, subprocess as s, sys; s.run(sys.argv[1:], check=True, stdout=s.DEVNULL); "
    "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
)
slow = pytest.mark.slow


@pytest.fixture
def animation(tmp_path: Path) -> Path:
    """An APNG of drawn scenes, and each of its frames as a file of its own in `stills`."""
    frames = [PIL.Image.fromarray(picture(120, 90, index)) for index in range(COUNT)]
    path = tmp_path / "i/clip.png"
    path.parent.mkdir()
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=250)
    for index, frame in enumerate(frames):
        frame.save(save(tmp_path / f"stills/{index:06}.png", np.asarray(frame)))
    return path


def test_a_frame_has_the_masks_of_the_same_image_in_a_file(clipseg: Program, animation: Path, tmp_path: Path) -> None:
    """Masks, overlays and soft maps of a frame are those of a still image; its record has number and time."""
    formats = "-p 'a red circle' -f mask,overlay,soft,labels,coco"
    clipseg(f"clipseg segment i --frames all {formats} -o frames")
    clipseg(f"clipseg segment stills {formats} -o stills-out")
    frames, stills = tree(tmp_path / "frames"), tree(tmp_path / "stills-out")
    assert [name for name in stills if name.startswith("masks")]
    for name, data in stills.items():
        if name.endswith(".png") or name.endswith(".jpg"):
            above, _, last = name.rpartition("/")
            assert frames[f"{above}/clip/{last}"] == data
    rows = records(tmp_path / "frames/manifest.jsonl")
    assert [(row["image"], row["frame"], row["time"]) for row in rows] == [
        ("i/clip.png", index, index / 4) for index in range(COUNT)
    ]
    assert len(json.loads(frames["coco.json"])["images"]) == COUNT


def test_a_run_of_frames_resumes_by_frame(clipseg: Program, animation: Path, tmp_path: Path) -> None:
    """A repeated command does only what is missing, and ends with the same files; `status` counts frames."""
    command = "clipseg segment i -p red --frames all -o out"
    clipseg(command)
    before = tree(tmp_path / "out")
    (tmp_path / "out/masks/red/clip/000002.png").unlink()
    again = clipseg(command)
    assert f"{COUNT} of {COUNT} images done ({COUNT - 1} before)" in again.stderr
    after = tree(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} <= {"run.json", "manifest.jsonl", ".clipseg-lock",
        ".clipseg-journal.jsonl"}  # fmt: skip
    assert len(records(tmp_path / "out/manifest.jsonl")) == COUNT
    assert f"done     {COUNT}" in clipseg("clipseg status out").stdout
    (tmp_path / "out/manifest.jsonl").write_text("")
    missing = json.loads(clipseg("clipseg status out --json", expect=3).stdout)["missing"]
    assert missing == SHOWN


def test_post_and_report_know_frames(clipseg: Program, animation: Path, tmp_path: Path) -> None:
    """`post` writes the files that the run wrote, and the report shows each frame's own photo."""
    clipseg("clipseg segment i -p red -f mask,overlay,soft --frames 1: -o run --report")
    clipseg("clipseg post run -o post")
    run, post = tree(tmp_path / "run"), tree(tmp_path / "post")
    same = [name for name in run if name.startswith(("masks", "overlays"))]
    assert len(same) == 2 * (COUNT - 1) and all(run[name] == post[name] for name in same)
    page = (tmp_path / "run/report.html").read_text()
    assert all(f"i/clip.png#{index}" in page for index in range(1, COUNT))


def test_the_summary_says_how_many_frames_were_left(clipseg: Program, animation: Path, tmp_path: Path) -> None:
    """Without --frames, the first frame is done, and the summary and run.json count the others."""
    done = clipseg("clipseg segment i -p red -o out")
    assert f"left out: {COUNT - 1} further frames of files with several; --frames all" in done.stderr
    assert json.loads((tmp_path / "out/run.json").read_text())["summary"]["frames_left"] == COUNT - 1
    assert "further frames" not in clipseg("clipseg segment i -p red --frames all -o all").stderr


def test_scores_hold_each_frame_against_its_own_truth(clipseg: Program, animation: Path, tmp_path: Path) -> None:
    """`eval` finds the ground truth of a frame under its file's name and its number."""
    clipseg("clipseg segment i -p red --frames all -o out")
    for index in range(COUNT):
        truth = tmp_path / f"gt/clip/{index:06}.png"
        truth.parent.mkdir(parents=True, exist_ok=True)
        truth.write_bytes((tmp_path / f"out/masks/red/clip/{index:06}.png").read_bytes())
    score = json.loads(clipseg("clipseg eval out gt --json").stdout)
    assert score["images"] == COUNT and score["miou"] > 0.999


def test_find_ranks_frames(clipseg: Program, animation: Path, tmp_path: Path) -> None:
    """`find` names the frames that show the prompt."""
    lines = clipseg("clipseg find i -p red --frames all --print paths").stdout.splitlines()
    assert sorted(lines) == SHOWN


@pytest.mark.parametrize("point", ["mid-write", pytest.param("mid-line", marks=slow)])
def test_a_run_of_frames_that_is_killed_ends_with_the_same_files(
    quick_shell: Shell, quick_clipseg: Program, tmp_path: Path, point: str
) -> None:
    """kill -9 at the 9th file or line, then the same command again: the tree of an uninterrupted run."""
    frames = [PIL.Image.fromarray(picture(48, 40, index)) for index in range(12)]
    for name in ("a.png", "b.png"):
        path = tmp_path / "imgs" / name
        path.parent.mkdir(exist_ok=True)
        frames[0].save(path, save_all=True, append_images=frames[1:])
    command = "clipseg segment imgs -p red --frames all -f mask -f overlay -b 2"
    quick_clipseg(f"{command} -o whole")
    assert quick_shell(f"{command} -o out", expect=None, TEST_KILL_AT=f"{point}:9").returncode in (-9, 137)
    assert_whole(tmp_path / "out")
    quick_clipseg(f"{command} -o out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@slow
def test_memory_does_not_grow_with_the_number_of_frames(quick_shell: Shell, tmp_path: Path) -> None:
    """Main process and worker of a run over 3,000 frames take at most 30 MB more than over 100."""
    peaks = []
    for count in (100, 3000):
        frames = (PIL.Image.fromarray(np.full((48, 64, 3), index % 251, np.uint8)) for index in range(count))
        first = next(frames)
        first.save(tmp_path / f"{count}.gif", save_all=True, append_images=frames, duration=40)
        command = f"clipseg segment {count}.gif -p red --frames all -f mask -o out{count}"
        done = quick_shell(f"python -c '{PEAK}' {command}")
        assert f"{count} of {count} images done" in done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 30_000  # kilobytes
