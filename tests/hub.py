"""A model hub on localhost: a real HTTP server with the part of the hub's protocol that downloads use.

with Hub({"org/name": {"main": {"config.json": b"..."}}}) as hub:
    ...  # a new process with HF_ENDPOINT=hub.url in its environment
    hub.requests  # the requests that it made
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from local_server import LocalServer

Files = dict[str, bytes]
LARGE = 10_000  # bytes: files of this size and above are stored like git-lfs files and named by their sha256


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `start` is the first byte of its range, None without a range."""

    method: str
    path: str
    start: int | None
    token: str | None


@dataclass
class Hub(LocalServer):
    """A hub; its `url` is the value for HF_ENDPOINT. `push` moves a branch while the server runs.

    `repos`: hub id -> branch, tag or refs/pr/N -> files.
    """

    repos: Mapping[str, Mapping[str, Files]] = field(default_factory=dict)
    cdn: str | None = None  # another Hub's url: large files are redirected to it
    gated: frozenset[str] = frozenset()  # repos that require consent
    broken: dict[str, int] = field(default_factory=dict)  # file -> HTTP status of the response
    etags: dict[str, str] = field(default_factory=dict)  # file -> a false ETag
    cuts: dict[str, list[int]] = field(default_factory=dict)  # file -> bytes after which the next connections break
    ranges: bool = True  # False: every response is the whole file
    requests: list[Request] = field(default_factory=list)
    commits: dict[tuple[str, str], Files] = field(default_factory=dict)  # (repo, commit) -> files
    refs: dict[tuple[str, str], str] = field(default_factory=dict)  # (repo, branch) -> commit

    def __post_init__(self) -> None:
        """Adds the repositories."""
        for repo, branches in self.repos.items():
            for branch, files in branches.items():
                self.push(repo, branch, files)

    def push(self, repo: str, branch: str, files: Files) -> str:
        """Replaces the content of a branch. Returns the new commit, 40 hex digits."""
        listing = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
        commit = hashlib.sha1(json.dumps([repo, listing]).encode()).hexdigest()
        self.commits[repo, commit] = dict(files)
        self.refs[repo, branch] = commit
        return commit

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """See `LocalServer`."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                respond(hub, self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                """Logs nothing; see `Hub.requests`."""

        return Handler

    def count(self, method: str, ending: str) -> int:
        """Counts the requests with this method whose path has this ending."""
        return sum(request.method == method and request.path.endswith(ending) for request in self.requests)


def read_files(path: Path) -> Files:
    """Reads the files of a checkpoint directory, ready to be served."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def respond(hub: Hub, http: BaseHTTPRequestHandler) -> None:
    """Records one request and responds to it."""
    path = unquote(urlsplit(http.path).path)
    byte_range = http.headers.get("Range", "")
    start = int(byte_range.removeprefix("bytes=").split("-")[0]) if byte_range else None
    hub.requests.append(Request(http.command, path, start, http.headers.get("Authorization")))
    try:
        if path.startswith("/api/models/"):
            respond_api(hub, http, path.removeprefix("/api/models/"))
        elif path.startswith("/cdn/"):
            contents = (data for files in hub.commits.values() for data in files.values())
            digest = path.removeprefix("/cdn/")
            send(hub, http, next(data for data in contents if hashlib.sha256(data).hexdigest() == digest), {}, digest)
        elif "/resolve/" in path:
            repo, _, rest = path.removeprefix("/").partition("/resolve/")
            respond_file(hub, http, repo, rest)
        else:
            send(hub, http, b"<!DOCTYPE html><html>Sign in</html>", {"Content-Type": "text/html"}, path)
    except ConnectionError:
        http.close_connection = True  # the client has disconnected


def respond_api(hub: Hub, http: BaseHTTPRequestHandler, path: str) -> None:
    """Serves /api/models/{repo}[/revision/{revision}], a commit's file names, and /tree/{revision}, their sizes."""
    repo, _, revision = path.replace("/tree/", "/revision/", 1).partition("/revision/")
    if (commit := find(hub, http, repo, revision or "main")) is None:
        return
    files = hub.commits[repo, commit]
    body: Any = {"id": repo, "modelId": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
    if "/tree/" in path:
        body = [{"type": "file", "path": name, "size": len(data), "oid": blob_id(data)} for name, data in files.items()]
    send(hub, http, json.dumps(body).encode(), {"Content-Type": "application/json"}, path)


def respond_file(hub: Hub, http: BaseHTTPRequestHandler, repo: str, rest: str) -> None:
    """Serves /{repo}/resolve/{revision}/{file}: the bytes, or a redirect to the other host for a large file."""
    revision, _, name = rest.rpartition("/")
    if (commit := find(hub, http, repo, revision)) is None:
        return
    if name in hub.broken:
        return refuse(http, hub.broken[name], "")
    if (data := hub.commits[repo, commit].get(name)) is None:
        return refuse(http, 404, "EntryNotFound")
    sha256 = hashlib.sha256(data).hexdigest()
    etag = hub.etags.get(name, sha256 if len(data) >= LARGE else blob_id(data))
    headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
    if len(data) >= LARGE:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        if hub.cdn:
            return send(hub, http, b"", {**headers, "Location": f"{hub.cdn}/cdn/{sha256}"}, name, status=302)
    send(hub, http, data, headers, name)


def blob_id(data: bytes) -> str:
    """Returns git's id of a file, 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def find(hub: Hub, http: BaseHTTPRequestHandler, repo: str, revision: str) -> str | None:
    """Returns the commit of a revision, or sends an error and returns None."""
    if not any(repo == known for known, _ in hub.commits):
        refuse(http, 401, "RepoNotFound")  # like the hub, which does not say if a repository is private or absent
    elif repo in hub.gated and not http.headers.get("Authorization"):
        refuse(http, 401, "GatedRepo")
    elif (commit := hub.refs.get((repo, revision), revision)) and (repo, commit) in hub.commits:
        return commit
    else:
        refuse(http, 404, "RevisionNotFound")
    return None


def refuse(http: BaseHTTPRequestHandler, status: int, code: str) -> None:
    """Sends an error in the hub's format."""
    http.send_response(status)
    if code:
        http.send_header("X-Error-Code", code)
    http.send_header("Content-Length", "0")
    http.end_headers()


def send(
    hub: Hub, http: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], name: str, *, status: int = 200
) -> None:
    """Sends the bytes from the start of the requested range, up to the next of `hub.cuts`."""
    byte_range = http.headers.get("Range") if hub.ranges and status == 200 else None
    start = int(byte_range.removeprefix("bytes=").split("-")[0]) if byte_range else 0
    http.send_response(206 if byte_range else status)
    for key, value in headers.items():
        http.send_header(key, value)
    if byte_range:
        http.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    http.send_header("Accept-Ranges", "bytes")
    http.send_header("Content-Length", str(len(data) - start))
    http.end_headers()
    if http.command == "GET":
        stop = start + hub.cuts[name].pop(0) if hub.cuts.get(name) else len(data)
        http.wfile.write(data[start:stop])
