"""A proxy for a server of the S3 protocol, with the conditional writes of other servers."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

IGNORED, REFUSED, HEEDED = "ignored", "refused", "heeded"


@contextmanager
def before(url: str, conditions: str, late: Callable[[str], float] = lambda path: 0.0) -> Iterator[str]:
    """Yields the URL of a proxy for the server at `url`; `late` gives the delay in seconds of a PUT to a path.

    Conditions are silently ignored, answered with 501, or heeded one at a time, as by a store.
    """
    place = urlsplit(url).netloc
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self._body()
            skipped = ("expect", "transfer-encoding", "content-length")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
            conditional = any(name.lower() == "if-none-match" for name in headers) and self.command == "PUT"
            if self.command == "PUT":
                time.sleep(late(self.path))
            if conditional and conditions == REFUSED:
                self._answer(501, {}, b"<Error><Code>NotImplemented</Code></Error>")
                return
            if conditional and conditions == IGNORED:
                headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
            with one_at_a_time:
                connection = http.client.HTTPConnection(place, timeout=30)
                connection.request(self.command, self.path, body or None, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
            self._answer(answer.status, dict(answer.getheaders()), content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            dropped = ("transfer-encoding", "connection", "server", "date")
            if self.command != "HEAD":
                dropped += ("content-length",)
            for name, value in headers.items():
                if name.lower() not in dropped:
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
