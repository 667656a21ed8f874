"""A real HTTP server that speaks the OpenAI protocol, with faults on request."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[int, str], str | tuple[int, str] | None]
"""Number of the request and its prompt to the text of the answer, to a status with a body, or None to hang up."""


@dataclass
class ChatServer:
    """Attributes: `url`; `requests`, as they came; `headers` of each."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def chat_server(reply: Reply, *, finish: str = "stop") -> Iterator[ChatServer]:
    """Serve on a free port of this machine while the block runs."""
    seen = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with seen.lock:
                number = len(seen.requests)
                seen.requests.append(request)
                seen.headers.append(dict(self.headers))
            answer = reply(number, request["messages"][0]["content"])
            if answer is None:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                return
            status, body = answer if isinstance(answer, tuple) else (200, _completion(answer, finish))
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


def _completion(text: str, finish: str) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"total_tokens": 100}})
