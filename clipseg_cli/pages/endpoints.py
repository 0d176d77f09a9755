"""The HTTP endpoints of the live page. Needs starlette: import it only to serve.

A request is refused without the token, with a foreign Host (DNS rebinding) or a foreign Origin (a page of another
site). Images are addressed by index, never by path. Paths and prompts travel as JSON, never as HTML or through a shell.
"""

import base64
import contextlib
import json
import secrets
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from clipseg_cli.errors import ClipsegError, ImageError, UsageError
from clipseg_cli.outputs.record import readable_name
from clipseg_cli.outputs.writers import raster
from clipseg_cli.pages.gallery import THUMBNAIL
from clipseg_cli.pages.mask_request import parse_request
from clipseg_cli.pages.session import Session, Stale
from clipseg_cli.pages.templates import template

POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; style-src 'nonce-{0}'; "
    "script-src 'nonce-{0}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


class Endpoints:
    """The endpoints of one session. Each method takes a request and returns a response, or a JSON document."""

    def __init__(self, session: Session, token: str, hosts: tuple[str, ...]) -> None:
        self.session, self.token, self.hosts = session, token, hosts

    def routes(self) -> list[Route]:
        """Returns the routes, each guarded."""
        return [
            Route("/", self.guarded(self.page)),
            Route("/images", self.guarded(self.images)),
            Route("/images/{index:int}", self.guarded(self.image)),
            Route("/status", self.guarded(self.status)),
            Route("/masks", self.guarded(self.masks), methods=["POST"]),
            Route("/run", self.guarded(self.start_run), methods=["POST"]),
            Route("/run/cancel", self.guarded(self.cancel_run), methods=["POST"]),
        ]

    def guarded(self, endpoint: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        """Returns the endpoint behind the checks of `refusal`, with errors and documents as JSON responses."""

        async def guarded_endpoint(request: Request) -> Response:
            if (reason := self.refusal(request)) is not None:
                return PlainTextResponse(reason, 403, HEADERS)
            try:
                result = await endpoint(request)
            except Stale:
                return JSONResponse({"stale": True}, headers=HEADERS)
            except (ClipsegError, ValueError, KeyError, TypeError) as error:
                return JSONResponse({"error": str(error)}, 400, HEADERS)
            except Exception as error:  # the page shows it and keeps running
                return JSONResponse({"error": f"internal error: {type(error).__name__}: {error}"}, 500, HEADERS)
            return result if isinstance(result, Response) else JSONResponse(result, headers=HEADERS)

        return guarded_endpoint

    def refusal(self, request: Request) -> str | None:
        """Returns why a request is refused, or None if it comes from the page itself."""
        if request.headers.get("host") not in self.hosts:
            return "this server answers only requests to its own address"
        origin = request.headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self.hosts:
            return "requests from other sites are refused"
        given = request.headers.get("x-token") or request.query_params.get("token") or ""
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return "the token is missing: open the URL that clipseg ui printed"
        return None

    async def page(self, request: Request) -> Response:
        """Returns the page itself."""
        nonce = secrets.token_urlsafe(16)
        html = template("ui.html").replace("{{nonce}}", nonce)
        return HTMLResponse(html, headers=HEADERS | {"Content-Security-Policy": POLICY.format(nonce)})

    async def images(self, request: Request) -> dict[str, Any]:
        """Returns the folder, the output folder, and the names of all images."""
        names = [readable_name(source.name) for source in self.session.gallery.sources]
        return {"folder": readable_name(self.session.folder), "out": readable_name(self.session.out), "images": names}

    async def image(self, request: Request) -> Response:
        """Returns one image as JPEG: its thumbnail or, with `?large=1`, the whole image in its full size."""
        index = int(request.path_params["index"])
        if not 0 <= index < len(self.session.gallery.sources):
            raise UsageError("there is no such image")
        side = raster.JPEG_SIDE if request.query_params.get("large") else THUMBNAIL

        def load() -> bytes:
            return raster.jpeg(self.session.gallery.fitted(index, side))

        try:
            data = await run_in_threadpool(load)
        except ImageError:  # the page shows the reason, which comes with the masks
            data = raster.jpeg(np.full((3, 4, 3), 128, np.uint8))
        return Response(data, media_type="image/jpeg", headers=HEADERS | {"Cache-Control": "private, max-age=3600"})

    async def status(self, request: Request) -> dict[str, Any]:
        """Returns the state of the model, the images and the run."""
        return self.session.status()

    async def masks(self, request: Request) -> dict[str, Any]:
        """Returns the masks of some images, the command line that gives the same, and the status."""
        session, document = self.session, await _body(request)
        parsed = parse_request(document, len(session.gallery.sources))
        generation, full_size = int(document.get("generation", 0)), bool(document.get("full_size"))
        indices = [int(each) for each in document["images"] if 0 <= int(each) < len(session.gallery.sources)]
        if not full_size:
            session.set_visible(indices, generation)
        rows = await run_in_threadpool(session.masks, indices, parsed, generation, full_size)
        for row in rows:
            for mask in row.get("masks", ()):
                mask["mask"] = "data:image/png;base64," + base64.b64encode(raster.png(mask["mask"])).decode()
        command = readable_name(shlex.join(session.command(parsed)))
        return {"images": rows, "command": command, "status": session.status()}

    async def start_run(self, request: Request) -> dict[str, Any]:
        """Starts a run on the whole folder; returns the status."""
        self.session.start_run(parse_request(await _body(request), len(self.session.gallery.sources)))
        return self.session.status()

    async def cancel_run(self, request: Request) -> dict[str, Any]:
        """Cancels the run, if there is one; returns the status."""
        if self.session.run is not None:
            self.session.run.cancel()
        return self.session.status()


async def _body(request: Request) -> dict[str, Any]:
    document = json.loads(await request.body())
    if not isinstance(document, dict):
        raise UsageError("the body of a request must be a JSON object")
    return document


def application(session: Session, token: str, hosts: tuple[str, ...]) -> Starlette:
    """Returns the application, which starts and closes the session. `hosts` are the Host headers of this server."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        session.start()
        yield
        session.close()

    return Starlette(routes=Endpoints(session, token, hosts).routes(), lifespan=lifespan)
