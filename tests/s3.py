"""A bucket on this machine: a real S3 server (moto's) in a process of its own, which fails when it is told to.

PUT /trouble?every=10&kind=slow&path=masks makes every tenth request for such a path fail from then on, GET /trouble
tells how many did. Kinds:

    ill      500 InternalError and 503 SlowDown in turn
    gone     the connection ends without an answer, or in the midst of a body, in turn
    deny     403, to what would write
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
ILL = ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again.")
SLOW = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
DENIED = ("403 Forbidden", "AccessDenied", "Access Denied")
ANSWERS = {"ill": (ILL, SLOW), "deny": (DENIED, DENIED)}
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class Troubled:
    """An application that fails now and then."""

    def __init__(self, inner: Application) -> None:
        self.inner, self.lock = inner, threading.Lock()
        self.kind, self.path, self.every, self.seen, self.failed = "", "", 1, 0, 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answers one request."""
        if environ["PATH_INFO"] == "/trouble":
            return self._told(environ, start)
        with self.lock:
            asked = self.kind != "deny" or environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
            asked = asked and self.path in environ["PATH_INFO"]
            self.seen += asked
            wrong = bool(self.kind) and asked and self.seen % self.every == 0
            self.failed += wrong
            odd = self.failed % 2
        if not wrong:
            return self.inner(environ, start)
        if self.kind in ANSWERS:
            status, code, message = ANSWERS[self.kind][odd]
            if environ.get("CONTENT_LENGTH"):
                environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            start(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()]
        if odd and environ["REQUEST_METHOD"] == "GET":
            return self._torn(environ, self.inner(environ, start))
        _hang_up(environ)
        return []

    def _told(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self.lock:
            if environ["REQUEST_METHOD"] == "PUT":
                asked = parse_qs(environ["QUERY_STRING"])
                self.kind, self.path = asked.get("kind", [""])[0], asked.get("path", [""])[0]
                self.every = int(asked["every"][0])
                self.seen = self.failed = 0
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps({"seen": self.seen, "failed": self.failed}).encode()]

    def _torn(self, environ: dict[str, Any], body: Iterable[bytes]) -> Iterator[bytes]:
        whole = b"".join(body)
        yield whole[: len(whole) // 2]
        _hang_up(environ)


def _hang_up(environ: dict[str, Any]) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


class Server:
    """The server, seen from a test."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.numbers = itertools.count(1)
        self.environment = KEYS | {"AWS_ENDPOINT_URL": self.url}

    def bucket(self) -> "Bucket":
        """A new bucket."""
        return Bucket(self, f"bucket-{next(self.numbers)}")

    def trouble(self, kind: str = "", every: int = 1, path: str = "") -> None:
        """Makes every so many requests for such a path fail in this way; none from here on, without a kind."""
        query = f"kind={kind}&every={every}&path={path}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/trouble?{query}", method="PUT")).close()

    def troubles(self) -> int:
        """How many requests have failed since then."""
        with urllib.request.urlopen(f"{self.url}/trouble") as answer:
            return int(json.load(answer)["failed"])

    def stop(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


class Bucket:
    """A bucket, filled and read by boto3."""

    def __init__(self, server: Server, name: str) -> None:
        import boto3

        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=server.url, **keys)
        self.client.create_bucket(Bucket=name)
        self.name, self.url = name, f"s3://{name}"

    def put(self, key: str, data: bytes) -> None:
        """Puts an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def up(self, folder: Path) -> None:
        """Puts every file of a folder, which becomes the first part of the keys."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(str(path.relative_to(folder.parent)), path.read_bytes())

    def down(self, prefix: str) -> dict[str, bytes]:
        """The content of every object below a folder, by its name there."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix + "/")
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {
            key.removeprefix(prefix + "/"): self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
            for key in keys
        }


def main() -> None:
    """The server's process: says its port on a line, then serves until it is killed or its parent has ended."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Troubled(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
