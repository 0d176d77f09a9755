"""An S3 server (moto's) for tests, in a separate process. It fails on request.

After PUT /trouble?every=10&kind=errors&path=masks every tenth request for a path with "masks" in it fails. GET /trouble
returns how many did. Kinds:

    errors       500 InternalError and 503 SlowDown in turn
    disconnects  the connection ends without an answer, or in the middle of a body, in turn
    deny         403 for requests that write
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
ERROR = ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again.")
SLOW_DOWN = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
DENIED = ("403 Forbidden", "AccessDenied", "Access Denied")
ANSWERS = {"errors": (ERROR, SLOW_DOWN), "deny": (DENIED, DENIED)}
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class Troubled:
    """A web application whose requests fail as configured."""

    def __init__(self, inner: Application) -> None:
        self.inner, self.lock = inner, threading.Lock()
        self.kind, self.path, self.every, self.seen, self.failed = "", "", 1, 0, 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answers a request."""
        if environ["PATH_INFO"] == "/trouble":
            return self._trouble(environ, start)
        with self.lock:
            counts = self.kind != "deny" or environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
            counts = counts and self.path in environ["PATH_INFO"]
            self.seen += counts
            fails = bool(self.kind) and counts and self.seen % self.every == 0
            self.failed += fails
            odd = self.failed % 2
        if not fails:
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

    def _trouble(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self.lock:
            if environ["REQUEST_METHOD"] == "PUT":
                query = parse_qs(environ["QUERY_STRING"])
                self.kind, self.path = query.get("kind", [""])[0], query.get("path", [""])[0]
                self.every = int(query["every"][0])
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
    """Starts the server and controls it."""

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
        """Returns a new bucket."""
        return Bucket(self, f"bucket-{next(self.numbers)}")

    def trouble(self, kind: str = "", every: int = 1, path: str = "") -> None:
        """Makes every `every`-th request for such a path fail in this way; without `kind`, none."""
        query = f"kind={kind}&every={every}&path={path}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/trouble?{query}", method="PUT")).close()

    def troubles(self) -> int:
        """Returns how many requests have failed since `trouble`."""
        with urllib.request.urlopen(f"{self.url}/trouble") as answer:
            return int(json.load(answer)["failed"])

    def stop(self) -> None:
        """Stops the server."""
        self.process.kill()
        self.process.communicate()


class Bucket:
    """A bucket, written and read with boto3."""

    def __init__(self, server: Server, name: str) -> None:
        import boto3

        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=server.url, **keys)
        self.client.create_bucket(Bucket=name)
        self.name, self.url = name, f"s3://{name}"

    def put(self, key: str, data: bytes) -> None:
        """Writes an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def up(self, folder: Path) -> None:
        """Uploads every file of a folder; the keys begin with the name of the folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(str(path.relative_to(folder.parent)), path.read_bytes())

    def down(self, prefix: str) -> dict[str, bytes]:
        """Returns the content of every object below a folder, by its name there."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix + "/")
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {
            key.removeprefix(prefix + "/"): self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
            for key in keys
        }


def main() -> None:
    """Prints the port, then serves until the process is killed or its parent ends."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = Troubled(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
