"""A local server of the OpenAI chat protocol that answers as a test says, and misbehaves where the test says so.

    with Server(lambda body: "yes", {"slow": hang, 0: [status(429, retry_after=0.01)]}) as server:
        EndpointConfig(url=server.url, model="m")

A script maps a request's number (from 0, in the order of arrival) or a part of its prompt (both turns) to a behaviour,
or to a list of them: one for each such request in turn, and after the last one it is answered. The first entry that
fits counts. Tokens are words: `usage` can be foretold with `words`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE = 15.0
"""Seconds that a behaviour lasts at most."""


@dataclass(frozen=True)
class Request:
    """What came in: the path with its query, the headers (names in lower case), the body."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The turns, one a line."""
        return "\n".join(message["content"] for message in self.body["messages"])


@dataclass(frozen=True)
class Exchange:
    """What a behaviour works with: the request, ways to reply, and the end of the test."""

    request: Request
    handler: BaseHTTPRequestHandler
    over: threading.Event
    leaving: Callable[[], None] = lambda: None

    def send(
        self,
        content: bytes,
        status: int = 200,
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Reply with `content`; `length` is what the headers claim."""
        shown = {"Content-Type": "application/json", "Content-Length": str(length or len(content))}
        shown |= headers or {}
        head = "".join(f"{name}: {value}\r\n" for name, value in shown.items())
        self.leaving()  # first: the client may ask again before this thread goes on
        self.handler.wfile.write(f"HTTP/1.1 {status} -\r\n{head}\r\n".encode() + content)

    def close(self) -> None:
        self.handler.close_connection = True


Behaviour = Callable[[Exchange], None]
Script = Mapping[int | str, Behaviour | Sequence[Behaviour]]


def words(text: str) -> int:
    return len(text.split())


def completion(request: Request, text: str | None, finish: str = "stop", refusal: str | None = None) -> bytes:
    """The body of a whole reply."""
    spent = words(request.prompt), words(text or "")
    return json.dumps(
        {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 0,
            "model": request.body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": refusal},
                    "finish_reason": finish,
                }
            ],
            "usage": {
                "prompt_tokens": spent[0],
                "completion_tokens": spent[1],
                "total_tokens": sum(spent),
            },
        }
    ).encode()


# -- behaviours ------------------------------------------------------------------------------------------------
def says(text: str | None, finish: str = "stop", refusal: str | None = None) -> Behaviour:
    """A whole reply of this text: off the schema, cut (`length`), refused, huge, in any script."""
    return lambda exchange: exchange.send(completion(exchange.request, text, finish, refusal))


def status(
    number: int, message: str = "as scripted", retry_after: float | None = None, **error: Any
) -> Behaviour:
    """An error of the protocol; `error` adds to its fields (`code`, `metadata`)."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    content = json.dumps({"error": {"message": message, "type": "scripted", **error}}).encode()
    return lambda exchange: exchange.send(content, number, headers=headers)


def raw(content: bytes, code: int = 200, kind: str = "application/json") -> Behaviour:
    """These very bytes: no JSON, a page, a reply without choices."""
    return lambda exchange: exchange.send(content, code, headers={"Content-Type": kind})


def cut(exchange: Exchange) -> None:
    """The connection ends in the middle of the body."""
    content = completion(exchange.request, "never read")
    exchange.send(content[: len(content) // 2], length=len(content))
    exchange.close()


def hang(exchange: Exchange) -> None:
    """No byte of a reply until the server is closed, or a client has shown that it would wait for ever."""
    exchange.over.wait(PATIENCE)
    exchange.close()


def drip(every: float = 0.02) -> Behaviour:
    """A reply whose body comes byte by byte, so that no pause is ever long, for as long as `hang` would last."""

    def behave(exchange: Exchange) -> None:
        exchange.send(b"{", length=1_000_000)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not exchange.over.wait(every):
            exchange.handler.wfile.write(b" ")
        exchange.close()

    return behave


class Server:
    """See the module. Closing it ends whatever still hangs.

    Args:
        answer: Text of the answer to a request's body, e.g. `{"model": ..., "messages": ..., "seed": ...}`.
        script: Which requests are not answered like that.
        seconds: Time that each request takes at least, so that they meet.

    Attributes:
        url: Base URL for a client.
        requests: All chat requests, in the order of arrival.
        most_at_once: The most chat requests that waited for the beginning of their reply at one time.
    """

    def __init__(
        self,
        answer: Callable[[dict], str] = lambda _: "yes",
        script: Script | None = None,
        seconds: float = 0.0,
    ):
        self.answer, self.seconds = answer, seconds
        self.script = {
            where: list(b) if isinstance(b, Sequence) else b for where, b in (script or {}).items()
        }
        self.requests: list[Request] = []
        self.most_at_once = self._now = 0
        self._lock, self._over = threading.Lock(), threading.Event()

    @property
    def asked(self) -> list[str]:
        """The last turn of each request, in the order of arrival."""
        return [request.body["messages"][-1]["content"] for request in self.requests]

    def __enter__(self) -> Server:
        handler = type("Handler", (_Handler,), {"server_of_test": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def handle(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._lock:
            behaviour = self._behaviour(len(self.requests), request)
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        left: list[bool] = []

        def leaving() -> None:
            with self._lock:
                self._now -= not left
                left.append(True)

        try:
            time.sleep(self.seconds)
            behaviour(Exchange(request, handler, self._over, leaving))
        except (BrokenPipeError, ConnectionResetError):  # the client did not wait
            handler.close_connection = True
        finally:
            leaving()

    def _behaviour(self, number: int, request: Request) -> Behaviour:
        for where, behaviour in self.script.items():
            if where == number if isinstance(where, int) else where in request.prompt:
                if not isinstance(behaviour, list):
                    return behaviour
                if behaviour:
                    return behaviour.pop(0)
        return lambda exchange: exchange.send(completion(request, self.answer(request.body)))


class _Http(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that is gone is no fault
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_test: Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length)
        if len(content) < length:  # a client that was killed
            self.close_connection = True
            return
        request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(content))
        if self.path.split("?")[0].endswith("/chat/completions"):
            self.server_of_test.handle(self, request)
        else:
            status(404, "no such path")(Exchange(request, self, threading.Event()))

    def do_GET(self) -> None:
        found = self.path.endswith("/models")
        content = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
        Exchange(Request(self.path, {}, {}), self, threading.Event()).send(content, 200 if found else 404)

    def log_message(self, *_: object) -> None:
        pass
