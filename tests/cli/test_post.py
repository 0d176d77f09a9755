"""`clipseg post`: what it prints."""

from pathlib import Path

import pytest

from pictures import Program, picture, save


@pytest.fixture
def run(quick_clipseg: Program, tmp_path: Path) -> Path:
    """A run with soft maps."""
    save(tmp_path / "imgs/a.png", picture(48, 40))
    quick_clipseg("clipseg segment imgs -p red -f soft -o run")
    return tmp_path / "run"


def test_post_prints_what_segment_prints(quick_clipseg: Program, run: Path, tmp_path: Path) -> None:
    """Paths of masks by default, records with --json, a summary on stderr, and a report where it is wanted."""
    done = quick_clipseg("clipseg post run -f mask,soft -o new --report")
    assert done.stdout == "new/masks/red/a.png\n" and "1 of 1 images done" in done.stderr
    assert (tmp_path / "new/report.html").is_file()
    done = quick_clipseg("clipseg post run -f mask -o other --json -q")
    assert done.stdout.replace('"other/', '"') == (tmp_path / "other/manifest.jsonl").read_text() and not done.stderr


def test_the_default_output_is_a_folder_of_its_own(quick_clipseg: Program, run: Path, tmp_path: Path) -> None:
    """Not that of `segment`."""
    quick_clipseg("clipseg post run")
    assert (tmp_path / "clipseg-post/manifest.jsonl").is_file() and not (tmp_path / "clipseg-out").exists()


def test_another_post_takes_the_next_free_folder(quick_clipseg: Program, run: Path, tmp_path: Path) -> None:
    """Without -o nothing is replaced. The same command again writes to the same folder."""
    quick_clipseg("clipseg post run -t 0.2")
    for _ in range(2):
        done = quick_clipseg("clipseg post run -t 0.3")
        assert done.stdout == "clipseg-post-2/masks/red/a.png\n" and "clipseg-post-2\n" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("clipseg-post*")) == ["clipseg-post", "clipseg-post-2"]


def test_large_images_are_refused_where_they_are_read_again(quick_clipseg: Program, run: Path) -> None:
    """--max-pixels holds for the photos of overlays, not for masks."""
    quick_clipseg("clipseg post run -f mask -o masks --max-pixels 10")
    assert "too_large" in quick_clipseg("clipseg post run -o overlays --max-pixels 10", expect=3).stderr
