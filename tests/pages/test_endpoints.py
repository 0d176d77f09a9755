"""The endpoints answer the page alone, by index and never by path, and survive requests that make no sense."""

import base64
import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from live import Server, serving
from pictures import SAMPLES, iou, picture, save

pytest.importorskip("uvicorn", reason="pip install 'clipseg-cli[ui]'")


def test_only_the_page_itself_is_answered(small: Server) -> None:
    """Without the token, with a foreign Host or Origin: 403."""
    own = {"X_Token": small.token}
    assert small.ask("/images", **own)[0] == 200
    assert small.ask("/")[0] == 403 and small.ask("/images")[0] == 403 and small.ask("/?token=x")[0] == 403
    assert small.ask("/masks", {"prompts": [], "images": []})[0] == 403
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"127.0.0.1:{small.port + 1}"},
        {"Origin": "http://evil.example"},
    ):
        assert small.ask("/images", **own, **headers)[0] == 403, headers
    assert small.ask("/images", **own, Origin=f"http://127.0.0.1:{small.port}")[0] == 200


def test_no_path_is_an_image(small: Server) -> None:
    """A path outside the folder, in any spelling, and an index that does not exist: 400 or 404."""
    for path in (
        "/images/../run.json",
        "/images/%2e%2e%2fetc%2fpasswd",
        "/images/-1",
        "/images/999",
        "/etc/passwd",
    ):
        assert small.ask(path, X_Token=small.token)[0] in (400, 404), path


@pytest.mark.parametrize(
    "body",
    [[], {"images": [0]}, {"images": ["x"], "prompts": []}, {"images": [0], "prompts": [{"text": ""}]}],
    ids=str,
)
def test_an_invalid_request_is_refused(small: Server, body: object) -> None:
    """400 with a reason, for masks and for runs."""
    for path in ("/masks", "/run"):
        status, content = small.ask(path, body, X_Token=small.token)
        assert status == 400 and b"error" in content
    assert small.ask("/run", {"prompts": []}, X_Token=small.token)[0] == 400


def test_the_page_has_a_nonce_and_a_policy(small: Server) -> None:
    """The page comes with the URL's token; its script and style carry a nonce, which differs each time."""
    pages = [small.ask(f"/?token={small.token}") for _ in range(2)]
    assert [status for status, _ in pages] == [200, 200]
    assert b"{{nonce}}" not in pages[0][1] and pages[0][1] != pages[1][1]


def test_masks_of_a_text_prompt_and_of_an_exemplar(small: Server) -> None:
    """Full-size masks fit the ground truth; a broken image says why; the command has the same prompts."""
    names = small.names()
    index = next(i for i, name in enumerate(names) if name.endswith("balcony.jpg"))
    expected = cv2.imread(str(SAMPLES / "masks/a-red-circle/balcony.png"), 0)
    exemplar = {"label": "exemplar", "image": index, "box": cv2.boundingRect(expected)}
    body = {"prompts": [{"text": "a red circle"}, exemplar | {"threshold": 0.5}], "images": [*range(len(names))]}
    reply = small.as_page("/masks", body | {"full_size": True})
    assert [each["id"] for each in reply["images"]] == body["images"]
    assert "broken" in reply["images"][-1]["failed"]
    found = reply["images"][index]
    assert found["size"] == [*expected.shape] and [each["label"] for each in found["masks"]] == [
        "a red circle",
        "exemplar",
    ]
    for mask in found["masks"]:
        assert iou(decoded(mask["mask"]), expected) > 0.6 and mask["presence"] > 0.5
        assert mask["area"] == pytest.approx(np.count_nonzero(decoded(mask["mask"])) / expected.size)
    small_masks = small.as_page("/masks", body)["images"][index]["masks"]
    assert max(decoded(small_masks[0]["mask"]).shape) == 360
    assert [mask["colour"] for mask in small_masks] == [mask["colour"] for mask in found["masks"]]
    assert small_masks[0]["colour"] != small_masks[1]["colour"]
    x, y, width, height = cv2.boundingRect(expected)
    assert reply["command"].endswith(
        f"--support exemplar={names[index]} --support-box {x},{y},{width},{height} -t exemplar=0.5 "
        f"-o {Path(names[index]).parents[1]}/clipseg-out"
    )


def decoded(url: str) -> np.ndarray:
    """The mask in a data URL, uint8 (H, W)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def test_an_older_request_is_stale(small: Server) -> None:
    """A request older than the newest one is not computed; a full-size one is, because it belongs to a dialog."""
    body = {"prompts": [{"text": "red"}], "images": [0]}
    assert "images" in small.as_page("/masks", body | {"generation": 2_000_000_000_000_000})
    assert small.as_page("/masks", body | {"generation": 1}) == {"stale": True}
    assert "images" in small.as_page("/masks", body | {"generation": 1, "full_size": True})


def test_a_link_out_of_the_folder_is_not_opened(tmp_path: Path) -> None:
    """Links are not listed; an image that has become a link since is not opened: a grey dot takes its place."""
    for name in ("photos/a.png", "photos/b.png", "secret.png"):
        save(tmp_path / name, picture(48, 48))
    os.symlink(tmp_path / "secret.png", tmp_path / "photos/c.png")
    with serving(tmp_path / "photos") as server:
        server.until_encoded()
        (tmp_path / "photos/b.png").unlink()
        os.symlink(tmp_path / "secret.png", tmp_path / "photos/b.png")
        assert len(server.names()) == 2
        for index, size in ((0, (48, 48)), (1, (4, 3))):
            status, content = server.ask(f"/images/{index}?large=1", X_Token=server.token)
            assert status == 200 and Image.open(io.BytesIO(content)).size == size


def test_an_image_that_cannot_be_read_is_listed_and_says_why(tmp_path: Path) -> None:
    """A GIMP file and an empty video beside a photo: a grey dot each, and the reason in place of masks."""
    save(tmp_path / "photos/a.png", picture(48, 48))
    (tmp_path / "photos/b.xcf").write_bytes(b"gimp xcf v011\0")
    (tmp_path / "photos/c.mov").touch()
    with serving(tmp_path / "photos") as server:
        server.until_encoded()
        assert len(server.names()) == 3
        for index in range(3):
            assert server.ask(f"/images/{index}", X_Token=server.token)[0] == 200
        rows = server.as_page("/masks", {"prompts": [{"text": "red"}], "images": [0, 1, 2]})["images"]
        assert "masks" in rows[0]
        assert "XCF is not supported; convert it" in str(rows[1]) and "empty" in str(rows[2])
