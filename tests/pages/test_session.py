"""The live page's state: refinements that are installed, and SAM on the images of the page."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from checkpoints import write_sam
from clipseg_cli.errors import UsageError
from clipseg_cli.masks import answers
from clipseg_cli.model.sam import Sam
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.pages.mask_request import MaskRequest, PagePrompt
from clipseg_cli.pages.session import Session, Stale
from clipseg_cli.run.refiner import Refiner
from clipseg_cli.settings.masks import CleanUp
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from pictures import Program, picture, save

PROMPTS = (PagePrompt("a red circle", None, "a red circle"),)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session of two photos of a red disc and one that shows none, all encoded."""
    for index in range(2):
        save(tmp_path / f"i/{index}.png", picture(150, 120, index))
    save(tmp_path / "i/2.png", np.full((100, 120, 3), 90, np.uint8))
    with encoded(tmp_path, EncodeOptions(features="none")) as session:
        yield session


@contextlib.contextmanager
def encoded(folder: Path, encode: EncodeOptions) -> Iterator[Session]:
    """A session that has encoded the three images in `folder`/i."""
    session = Session(str(folder / "i"), ModelOptions("shapes"), str(folder / "out"), encode)
    session.start()
    end = time.monotonic() + 120
    while session.status()["encoded"] < 3:
        assert time.monotonic() < end, session.status()
        time.sleep(0.02)
    yield session
    session.close()


@pytest.fixture
def refiner(tmp_path: Path) -> Refiner:
    """A small random SAM."""
    return Refiner(lambda: Sam.load(str(write_sam(tmp_path / "sam"))))


def test_only_refinements_that_are_installed_are_offered(session: Session, refiner: Refiner) -> None:
    """SAM with its weights only; asking for it without them says what to do."""
    session.refiner = None
    assert session.status()["refinements"] == ["none", "guided", "grabcut", "matting"]
    with pytest.raises(UsageError, match="models pull"):
        session.masks([0], MaskRequest(PROMPTS, CleanUp("sam")), 1)
    session.refiner = refiner
    assert session.status()["refinements"][-1] == "sam"


@pytest.mark.slow
def test_the_page_has_the_masks_of_a_run_with_sam(
    session: Session, refiner: Refiner, clipseg: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In full size, pixel for pixel. An image that shows nothing is not encoded for SAM, any other only once."""
    monkeypatch.setattr(answers, "LEAST_IOU", 0.0)  # a random network: take every answer
    monkeypatch.setattr(answers, "LEAST_SHARE", 0.0)
    monkeypatch.setattr(answers, "MOST_EMPTY", 1.0)
    session.refiner = refiner
    request = MaskRequest(PROMPTS, CleanUp("sam"))
    rows = [row for _ in range(2) for row in session.masks([0, 1, 2], request, 1, full_size=True)][:3]
    plain = session.masks([0, 1, 2], MaskRequest(PROMPTS), 1, full_size=True)
    assert [*session.seen] == [0, 1]
    assert "--refine sam" in " ".join(session.command(request))
    clipseg(f"clipseg segment i -p 'a red circle' --refine sam --refine-model {tmp_path}/sam -f mask -o run")
    for index, (row, before) in enumerate(zip(rows, plain, strict=True)):
        expected = cv2.imread(str(tmp_path / f"run/masks/a-red-circle/{index}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(row["masks"][0]["mask"], expected)
        assert np.array_equal(before["masks"][0]["mask"], expected) == (index == 2)
    assert max(session.masks([0], request, 2)[0]["masks"][0]["mask"].shape) == 150


def test_a_newer_prompt_cancels_a_refinement(session: Session, refiner: Refiner) -> None:
    """While SAM works on one image, a newer request comes: the next image is not begun."""
    session.refiner = refiner
    see: Callable[[Any], Any] = refiner.see

    class Interrupted(Refiner):
        def see(self, photos: Any) -> Any:
            """Sees, and lets a newer request come."""
            session.set_visible([0], 9)
            return see(photos)

    session.refiner = Interrupted(refiner.load)
    with pytest.raises(Stale):
        session.masks([0, 1], MaskRequest(PROMPTS, CleanUp("sam")), 1)
    assert [*session.seen] == [0]


def test_pages_and_runs_share_what_they_have_encoded(session: Session, clipseg: Program, tmp_path: Path) -> None:
    """A page keeps features, finds those of an earlier page, bit for bit, and leaves them to the run that it starts."""
    kept = tmp_path / "kept"
    with encoded(tmp_path, EncodeOptions(features=str(kept))) as first:
        assert f"--features {kept}" in " ".join(first.command(MaskRequest(PROMPTS)))
    entries = {path: path.stat().st_ino for path in kept.rglob("*.features")}
    assert len(entries) == 3
    with encoded(tmp_path, EncodeOptions(features=str(kept))) as second:
        for index, features in session.features.items():
            assert torch.equal(second.features[index].tensor, features.tensor)
    clipseg(f"clipseg segment i -p 'a red circle' -f mask -o run --features {kept}")
    assert {path: path.stat().st_ino for path in kept.rglob("*.features")} == entries


def test_what_a_page_has_kept_takes_the_place_of_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the features of an earlier page, the encoder has nothing to do."""
    for index in range(3):
        save(tmp_path / f"i/{index}.png", picture(150, 120, index))
    options = EncodeOptions(features=str(tmp_path / "kept"))
    with encoded(tmp_path, options):
        pass
    monkeypatch.setattr(Segmenter, "encode", None)
    with encoded(tmp_path, options) as session:
        assert not session.failed


def test_images_appear_while_sam_is_at_work(
    session: Session, refiner: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request does not wait for all images: those that SAM has yet to encode are pending, and the next one takes
    them up. Images in which nothing is found are not waited for."""
    monkeypatch.setattr("clipseg_cli.pages.session.WAIT", 0.0)
    session.refiner = refiner
    request = MaskRequest(PROMPTS, CleanUp("sam"))
    first, second = (session.masks([2, 0, 1], request, number) for number in (1, 2))
    assert ["pending" in row for row in first] == [False, False, True] and [*session.seen] == [0, 1]
    assert all("masks" in row for row in second)
