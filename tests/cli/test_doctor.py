"""`clipseg doctor`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from skimage import data

from checkpoints import write_checkpoint
from clipseg_cli.cli import doctor
from clipseg_cli.model import published
from clipseg_cli.model.published import PublishedValues
from pictures import Program, picture, save
from released import Server, publish, put_in_cache


def test_doctor_segments_a_drawing(clipseg: Program) -> None:
    """It exits 0 if the bundled model finds a drawn disc on this machine."""
    shown = clipseg("clipseg doctor").stdout
    assert "FAIL" not in shown and "finds a drawn red circle" in shown and "torch" in shown


def test_a_failed_check_exits_with_1(clipseg: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is not good enough, and a device that is not there."""
    monkeypatch.setattr(doctor, "SELF_TEST_IOU", 1.1)
    assert "FAIL self-test: finds a drawn red circle" in clipseg("clipseg doctor", expect=1).stdout
    assert "FAIL self-test" in clipseg("clipseg doctor --device cuda:99", expect=1).stdout


@dataclass(frozen=True)
class Published:
    """A checkpoint, its photo, its values, and a server that has the photo."""

    checkpoint: Path
    photo: Path
    values: PublishedValues
    server: Server


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """A tiny checkpoint with its own published values."""
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    photo = save(tmp_path_factory.mktemp("web") / "photo.jpg", data.astronaut()[:480])
    with Server(photo.parent) as server:
        yield Published(checkpoint, photo, publish(checkpoint, photo, f"{server.url}/photo.jpg"), server)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, on a machine with a network."""
    from clipseg_cli.model import hub

    monkeypatch.setattr(hub.constants(), "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants(), "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


@pytest.fixture
def released(tiny: Published, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A machine that has the tiny checkpoint as rd64-refined, and whose doctor knows its values."""
    put_in_cache(tiny.checkpoint, cache)
    monkeypatch.setattr(published, "RELEASED", tiny.values)
    return tiny


def findings(clipseg: Program, line: str = "", expect: int = 0) -> list[str]:
    """Returns the lines about published values: the mark, then the text."""
    shown = clipseg(f"clipseg doctor --device cpu {line}", expect=expect).stdout.splitlines()
    start = "published values of rd64-refined: "
    return [each.replace(start, "") for each in shown if each[5:].startswith(start)]


def test_the_weights_are_compared_with_published_values(clipseg: Program, released: Published) -> None:
    """With the weights, and the photo downloaded or given: embedding, image embedding and logits are equal."""
    before = released.server.requests
    downloaded = findings(clipseg)
    assert released.server.requests == before + 1
    assert downloaded == findings(clipseg, f"--image {released.photo}") and released.server.requests == before + 1
    starts = ('the embedding of "a cat"', "the embedding of the test photo", 'the logits of "a cat" in the test photo')
    for shown, start in zip(downloaded, starts, strict=True):
        assert shown.startswith(f"ok   {start}: equal (largest difference ")


def test_other_values_are_not_equal(clipseg: Program, released: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result that differs is named with the largest difference, and the exit code is 1."""
    values, tenth = released.values, 0.1
    wrong = replace(
        values,
        embedding=(*values.embedding[:2], values.embedding[2] + tenth),
        logits=((values.logits[0][0] - tenth, *values.logits[0][1:]), *values.logits[1:]),
    )
    monkeypatch.setattr(published, "RELEASED", wrong)
    text, image, logits = findings(clipseg, expect=1)
    assert text == 'FAIL the embedding of "a cat": not equal (largest difference 0.1)'
    assert image.startswith("ok   ")
    assert logits == 'FAIL the logits of "a cat" in the test photo: not equal (largest difference 0.1)'


def test_offline_the_embedding_of_the_prompt_is_compared(clipseg: Program, released: Published) -> None:
    """Nothing is requested. It says what was not checked, and how to check it."""
    before = released.server.requests
    text, rest = findings(clipseg, "--offline")
    assert text.startswith('ok   the embedding of "a cat": equal') and released.server.requests == before
    assert rest.startswith("     logits and image embedding not checked: ")
    assert "--image FILE" in rest and released.values.photo.url in rest


def test_a_photo_that_cannot_be_downloaded_is_not_checked(
    clipseg: Program, released: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file, another file and a server that does not answer: no failure, and a way to check it."""
    photo = released.values.photo
    save(released.photo.with_name("other.jpg"), picture(640, 480))
    unbound = "http://127.0.0.1:9/photo.jpg"
    for url in (f"{released.server.url}/none.jpg", f"{released.server.url}/other.jpg", unbound):
        monkeypatch.setattr(published, "RELEASED", replace(released.values, photo=replace(photo, url=url)))
        rest = findings(clipseg)[1]
        assert rest.startswith("     logits and image embedding not checked: ") and "--image FILE" in rest


def test_a_file_that_is_not_the_photo_fails(clipseg: Program, released: Published, tmp_path: Path) -> None:
    """No file, no image, another size, or other pixels; then the weights may be right, and it says so."""
    save(tmp_path / "small.png", picture())
    save(tmp_path / "other.png", picture(512, 480))
    (tmp_path / "text.jpg").write_text("text")
    for file, reason in (("none.jpg", "cannot read"), ("text.jpg", "not a known image"), ("small.png", "160 x 120")):
        rest = findings(clipseg, f"--image {file}", expect=1)[1]
        assert rest.startswith("FAIL ") and file in rest and reason in rest
    logits = findings(clipseg, "--image other.png", expect=1)[2]
    assert "not equal" in logits and "other.png is not the original file" in logits


def test_the_photo_without_loss_is_as_good(clipseg: Program, released: Published, tmp_path: Path) -> None:
    """The decoded photo saved as PNG gives equal values."""
    from PIL import Image

    Image.open(released.photo).save(tmp_path / "photo.png")
    assert all(line.startswith("ok   ") for line in findings(clipseg, "--image photo.png"))


def test_without_the_weights_it_says_how_to_check_them(clipseg: Program, cache: Path) -> None:
    """No failure and no request; with --image too."""
    for line in ("", "--image none.jpg"):
        (only,) = findings(clipseg, line)
        assert only.startswith("     not checked") and "clipseg models pull rd64-refined && clipseg doctor" in only


def test_damaged_weights_fail(clipseg: Program, released: Published, cache: Path) -> None:
    """Weights that are cut short are a failed check, not an internal error."""
    (weights,) = cache.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    (only,) = findings(clipseg, expect=1)
    assert only.startswith("FAIL ") and "model.safetensors" in only


def test_doctor_says_which_files_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists the kinds that can be read, and for every other kind the pip line of its extra."""
    from clipseg_cli.cli.doctor import _kinds

    assert "JPEG, PNG" in next(_kinds()).value
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reads, *others = _kinds()
    assert "JPEG, PNG" in reads.value and "HEIC" not in reads.value
    assert {each.what: each.value for each in others}["HEIC"].endswith("pip install 'clipseg-cli[heic]'")
    assert all(each.ok is None for each in others)
