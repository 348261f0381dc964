"""A server that does what the body of a request asks for, and else tells what it was sent."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TRIES = itertools.count()
PINGS = iter(map(int, os.environ.get("PINGS", "").split()))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/execution-parameters" and "PARAMETERS" in os.environ:
            self._answer(200, os.environ["PARAMETERS"].encode())
            return
        if self.path == "/ping":
            time.sleep(float(os.environ.get("PING_SECONDS", 0)))
        self._answer(next(PINGS, 200) if self.path == "/ping" else 404, b"")

    def do_POST(self) -> None:
        body = self._body()
        asked = self._asked(body)
        print("asked for", asked.get("name", "nothing"), flush=True)
        if asked.get("exit"):
            os._exit(3)
        time.sleep(asked.get("sleep", 0))
        if "parts" in asked:
            self._stream(asked)
            return
        if "tries" in asked and next(TRIES) < asked["tries"]:
            self._answer(503, b"")
            return
        answer = asked.get("body")
        if answer is None:
            seen = {"headers": dict(self.headers.items()), "body": body.decode(errors="replace")}
            answer = json.dumps(seen)
        self._answer(
            asked.get("status", 200),
            answer.encode() * asked.get("times", 1),
            asked.get("headers", {"Content-Type": "text/plain"}),
        )

    def _asked(self, body: bytes) -> Any:
        """Return the body, where it is one JSON object on a line."""
        return json.loads(body) if body[:1] == b"{" and b"\n" not in body[:-1] else {}

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in asked["parts"]:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part.encode()))
            self.wfile.flush()
            time.sleep(0.3)  # so that they do not come together
            while "until" in asked and not Path(asked["until"]).exists():
                time.sleep(0.05)
        if asked.get("break"):
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    if "BROKEN" in os.environ:
        sys.exit("the weights are corrupt")
    address = os.environ["OPTML_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])
    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = False  # server_close() waits for what is being answered

    def stop(*_: Any) -> None:
        if "STUBBORN" not in os.environ:
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print("serving", flush=True)
    server.serve_forever(0.05)
    server.server_close()
    print("drained", flush=True)


if __name__ == "__main__":
    main()
