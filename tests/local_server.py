"""A web server on localhost."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self


class LocalServer:
    """A web server on a free port of localhost; `url` is its address. Use it with `with`."""

    url: str

    def handler(self) -> Callable[..., BaseHTTPRequestHandler]:
        """Returns what answers a request."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Starts the server."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the server."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
