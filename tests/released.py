"""A tiny checkpoint in place of rd64-refined, and its own published values, computed by transformers."""

from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from shutil import copytree
from typing import Any

from PIL import Image

from clipseg_cli.model.published import Photo, PublishedValues
from local_server import LocalServer

PROMPTS = ["a cat", "a remote", "a blanket"]  # those of transformers' test; the values are those of the first


class Server(LocalServer):
    """A web server that serves a folder and counts its requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests = 0

    def handler(self) -> partial[SimpleHTTPRequestHandler]:
        """See `LocalServer`."""
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                super().do_GET()

            def log_message(self, *_: Any) -> None:
                """Logs nothing."""

        return partial(Handler, directory=self.folder)


def publish(checkpoint: Path, photo: Path, url: str) -> PublishedValues:
    """Returns what transformers' test would publish for a checkpoint and a photo, rounded to four decimals too."""
    import hashlib

    import torch
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

    image = Image.open(photo)
    processor = CLIPSegProcessor.from_pretrained(checkpoint, backend="pil")
    model = CLIPSegForImageSegmentation.from_pretrained(checkpoint).eval()
    inputs = processor(text=PROMPTS, images=[image] * len(PROMPTS), padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)

    def rounded(numbers: Any) -> tuple[float, ...]:
        return tuple(round(number, 4) for number in numbers.tolist())

    return PublishedValues(
        model="rd64-refined",
        prompt=PROMPTS[0],
        photo=Photo(url, hashlib.sha256(photo.read_bytes()).hexdigest(), *image.size),
        embedding=rounded(output.conditional_embeddings[0, :3]),
        image_embedding=rounded(output.pooled_output[0, :3]),
        logits=tuple(rounded(row) for row in output.logits[0, :3, :3]),
        tolerance=1e-3,
    )


def put_in_cache(checkpoint: Path, cache: Path) -> None:
    """Puts a checkpoint into a Hugging Face cache, as a download of rd64-refined would."""
    folder, commit = cache / "models--CIDAS--clipseg-rd64-refined", "0123456789abcdef" * 2 + "01234567"
    copytree(checkpoint, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit)
