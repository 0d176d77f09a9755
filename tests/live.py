"""The live page's server, in a thread of the test or as a process of its own, and requests to it."""

import contextlib
import http.client
import json
import re
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pictures import SAMPLES, picture, save


class Server:
    """A server of the live page at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = int(re.findall(r":(\d+)/", url)[0])
        self.token = url.split("token=")[1]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Sends one request, byte for byte as given; returns status and content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        data = None if body is None else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest("GET" if data is None else "POST", path, skip_host="Host" in names)
        for name, value in (names | ({"Content-Length": str(len(data))} if data is not None else {})).items():
            connection.putheader(name, value)
        with contextlib.closing(connection):
            connection.endheaders(data)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def as_page(self, path: str, body: Any = None) -> Any:
        """Sends a request with the token, as the page does; returns the JSON of a successful reply."""
        status, content = self.ask(path, body, X_Token=self.token)
        assert status == 200, content
        return json.loads(content)

    def names(self) -> list[str]:
        """Returns the names of the images, in the order of the page."""
        return list(self.as_page("/images")["images"])

    def until_encoded(self) -> None:
        """Waits until every image is encoded or has failed."""
        end = time.monotonic() + 300
        while (status := self.as_page("/status"))["encoded"] + status["failed"] < status["images"]:
            assert time.monotonic() < end and status["model_error"] is None, status
            time.sleep(0.02)


class Process(Server):
    """`clipseg ui` as a process of its own; `stderr` is set once it has ended."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.stderr = ""
        self.process = subprocess.Popen(
            ["clipseg", "ui", str(folder), "--no-open"], cwd=folder.parent, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        assert url, self.process.communicate()
        super().__init__(url)

    def stop(self) -> int:
        """Ends it as Ctrl-C does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.stderr = self.process.communicate(timeout=120)[1]
        return self.process.returncode


Start = Callable[..., Process]


@contextlib.contextmanager
def serving(folder: Path, model: str = "shapes") -> Iterator[Server]:
    """Serves a folder in a thread of the test; its runs write to `clipseg-out` beside the folder."""
    import uvicorn

    from clipseg_cli.pages.endpoints import application
    from clipseg_cli.pages.session import Session
    from clipseg_cli.settings.model import EncodeOptions, ModelOptions

    options, out = ModelOptions(model, offline=True), str(folder.parent / "clipseg-out")
    session = Session(str(folder), options, out, EncodeOptions())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        host, token = f"127.0.0.1:{listening.getsockname()[1]}", secrets.token_urlsafe(24)
        config = uvicorn.Config(
            application(session, token, (host,)), log_level="error", ws="none", timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield Server(f"http://{host}/?token={token}")
        finally:
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive()


def fill(folder: Path, samples: int | None = None) -> Path:
    """Copies samples (all, or the first few) into a folder, and adds one image more and one that is broken."""
    folder.mkdir(parents=True)
    for path in sorted((SAMPLES / "images").iterdir())[:samples]:
        shutil.copy(path, folder)
    save(folder / "zz <b>.png", picture())
    (folder / "zz broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    return folder
