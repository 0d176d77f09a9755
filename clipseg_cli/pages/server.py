"""The live page's server: 127.0.0.1 only, a token in the URL, pictures by number and never by path.

A request is refused without the token, with a foreign Host (a name rebound to this machine) or a foreign Origin (a page
of another site). No path and no prompt of the page reaches HTML or a shell: all text travels as JSON.
"""

import base64
import contextlib
import json
import secrets
import shlex
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipseg_cli.errors import ClipsegError, ImageError, UsageError
from clipseg_cli.outputs.manifest import readable_name
from clipseg_cli.outputs.writers import raster
from clipseg_cli.pages.session import THUMB, Session, Stale, read_ask

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

TEMPLATE = Path(__file__).parent / "ui.html"
IDLE = 300  # seconds: no connection is closed under a browser that is slow to ask again
LARGE = 1600  # pixels, the longer side of an enlarged picture
POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; style-src 'nonce-{0}'; "
    "script-src 'nonce-{0}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


def application(session: Session, token: str, hosts: tuple[str, ...]) -> "Starlette":
    """The server's application; `hosts` are the Host headers that are this server's own names."""
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise UsageError("the page needs two more packages: pip install 'clipseg-cli[ui]'") from error

    def refusal(request: "Request") -> str | None:
        if request.headers.get("host") not in hosts:
            return "this server answers to its own address only"
        origin = request.headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in hosts:
            return "requests of other sites are refused"
        given = request.headers.get("x-token") or request.query_params.get("token") or ""
        return None if secrets.compare_digest(given.encode(), token.encode()) else "the token of the URL is missing"

    def guarded(function: Callable[["Request"], Any]) -> Callable[["Request"], Any]:
        async def endpoint(request: "Request") -> "Response":
            if (why := refusal(request)) is not None:
                return PlainTextResponse(why, 403, HEADERS)
            try:
                result = await function(request)
            except Stale:
                return JSONResponse({"stale": True}, headers=HEADERS)
            except (ClipsegError, ValueError, KeyError, TypeError) as error:
                return JSONResponse({"error": str(error)}, 400, HEADERS)
            except Exception as error:  # told on the page, which goes on
                return JSONResponse({"error": f"internal error: {type(error).__name__}: {error}"}, 500, HEADERS)
            return result if isinstance(result, Response) else JSONResponse(result, headers=HEADERS)

        return endpoint

    def numbered(request: "Request") -> int:
        index = int(request.path_params["index"])
        if not 0 <= index < len(session.sources):
            raise UsageError("there is no such picture")
        return index

    async def body(request: "Request") -> dict[str, Any]:
        document = json.loads(await request.body())
        if not isinstance(document, dict):
            raise UsageError("a request's body is a JSON object")
        return document

    async def page(request: "Request") -> "Response":
        nonce = secrets.token_urlsafe(16)
        html = TEMPLATE.read_text("utf-8").replace("{{nonce}}", nonce)
        return HTMLResponse(html, headers=HEADERS | {"Content-Security-Policy": POLICY.format(nonce)})

    async def listing(request: "Request") -> Any:
        names = [shown(source.name) for source in session.sources]
        return {"folder": shown(session.folder), "out": shown(session.out), "images": names}

    async def status(request: "Request") -> Any:
        return session.status()

    async def picture(request: "Request") -> "Response":
        side = LARGE if request.query_params.get("large") else THUMB
        try:
            data = await run_in_threadpool(session.picture, numbered(request), side)
        except ImageError:  # the page tells why from the answer to its question
            data = raster.jpeg(np.full((3, 4, 3), 128, np.uint8))
        return Response(data, media_type="image/jpeg", headers=HEADERS | {"Cache-Control": "private, max-age=3600"})

    async def answer(request: "Request") -> Any:
        document = await body(request)
        ask = read_ask(document, len(session.sources))
        turn = int(document.get("turn", 0))
        ids = [int(each) for each in document["ids"] if 0 <= int(each) < len(session.sources)]
        if not document.get("whole"):
            session.look(ids, turn)
        rows = await run_in_threadpool(session.answer, ids, ask, turn, bool(document.get("whole")))
        for row in rows:
            for found in row.get("masks", ()):
                found["mask"] = "data:image/png;base64," + base64.b64encode(raster.png(found["mask"])).decode()
        return {"images": rows, "command": shown(shlex.join(session.command(ask))), "status": session.status()}

    async def begin(request: "Request") -> Any:
        session.begin(read_ask(await body(request), len(session.sources)))
        return session.status()

    async def cancel(request: "Request") -> Any:
        if session.run is not None:
            session.run.cancel()
        return session.status()

    @contextlib.asynccontextmanager
    async def alive(app: "Starlette") -> AsyncIterator[None]:
        session.start()
        yield
        session.close()

    routes = [
        Route("/", guarded(page)),
        Route("/images", guarded(listing)),
        Route("/status", guarded(status)),
        Route("/picture/{index:int}", guarded(picture)),
        Route("/masks", guarded(answer), methods=["POST"]),
        Route("/run", guarded(begin), methods=["POST"]),
        Route("/run/cancel", guarded(cancel), methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=alive)


def serve(session: Session, port: int, show: Callable[[str], None], browse: bool) -> None:
    """Serves the page until it is interrupted; `show` is told its URL. Raises UsageError for a port that is taken."""
    with socket.socket() as listening:
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()  # a browser that is quicker than the server waits
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}; choose another, or 0 for any") from error
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        app = application(session, token, hosts)
        import uvicorn

        url = f"http://127.0.0.1:{port}/?token={token}"
        show(url)
        if browse:
            threading.Timer(0.5, webbrowser.open, (url,)).start()
        config = uvicorn.Config(
            app, log_level="error", access_log=False, timeout_graceful_shutdown=2, timeout_keep_alive=IDLE
        )
        uvicorn.Server(config).run(sockets=[listening])
