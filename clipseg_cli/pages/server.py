"""The server of the live page: on 127.0.0.1 only, with a token in the URL."""

import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable

from clipseg_cli.errors import UsageError
from clipseg_cli.pages.session import Session

KEEP_ALIVE = 300  # seconds: a browser may be slow to send its next request


def serve(session: Session, port: int, announce: Callable[[str], None], browse: bool) -> None:
    """Serves the page until it is interrupted. `announce` gets the URL; `browse` opens it in the browser.

    Raises UsageError for a port in use (0 means any free one) and for missing packages.
    """
    try:
        import uvicorn

        from clipseg_cli.pages.endpoints import application
    except ImportError as error:
        raise UsageError("the page needs two more packages: pip install 'clipseg-cli[ui]'") from error
    with socket.socket() as listening:
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen()  # lets a browser that is faster than the server wait
        except OSError as error:
            raise UsageError(f"--port {port}: {error.strerror}; choose another port, or 0 for any free one") from error
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        app = application(session, token, (f"127.0.0.1:{port}", f"localhost:{port}"))
        url = f"http://127.0.0.1:{port}/?token={token}"
        announce(url)
        if browse:
            threading.Timer(0.5, webbrowser.open, (url,)).start()
        config = uvicorn.Config(
            app, log_level="error", access_log=False, timeout_graceful_shutdown=2, timeout_keep_alive=KEEP_ALIVE
        )
        uvicorn.Server(config).run(sockets=[listening])
