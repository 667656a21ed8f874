"""A client of any OpenAI-compatible endpoint (vLLM, Ollama, llama.cpp, hosted ones): one text in, one text out.

Requests run at the same time, are retried with growing pauses, and answers are kept on disk under a hash of the
request, so that a killed run asks nothing twice. The key comes from the environment (`OPENAI_API_KEY`) only and is
written nowhere.
"""

import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from conan_embed.documents.sources import as_unicode
from conan_embed.errors import UserError

KEY = "OPENAI_API_KEY"
_MANY = 50  # failures in a row: the endpoint is down


@dataclass(frozen=True)
class Endpoint:
    """Attributes:
    url: up to and with the version, such as http://localhost:8000/v1.
    model: its name there.
    timeout: seconds of a request.
    tries: of a request, before it counts as failed.
    concurrency: requests at a time.
    pause: seconds before the second try; it doubles with each.
    """

    url: str
    model: str
    timeout: float = 120.0
    tries: int = 5
    concurrency: int = 8
    pause: float = 1.0


@dataclass(frozen=True)
class Answer:
    """Attributes: `number` of the prompt; `text`, None where all tries failed; `tokens` used, 0 if kept on disk."""

    number: int
    text: str | None
    tokens: int


class _RequestError(Exception):
    """A failed request; `again`: whether another try may help; `pause`: seconds that the server asks for."""

    def __init__(self, reason: str, *, again: bool = True, pause: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.pause = again, pause


class LanguageModel:
    """Asks one model.

    Args:
        endpoint: where.
        cache: a file of answers, one JSON object a line.
    """

    def __init__(self, endpoint: Endpoint, cache: Path) -> None:
        self.endpoint, self.cache = endpoint, cache
        self.known = _read_cache(cache)
        self.last_reason = ""
        self._lock = threading.Lock()

    def ask(self, prompts: Iterable[str], *, max_tokens: int, temperature: float = 0.7) -> Iterator[Answer]:
        """Yield the answers in the order in which they come.

        Raises:
            UserError: the endpoint refuses the key or the model, or nothing but failures come.
        """
        failures = 0
        requests = (
            (number, self._request(prompt, max_tokens, temperature)) for number, prompt in enumerate(prompts)
        )
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            running: set[Future[Answer]] = set()
            try:
                while True:
                    for number, request in islice(requests, 2 * self.endpoint.concurrency - len(running)):
                        running.add(pool.submit(self._answer, number, request))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        answer = future.result()
                        failures = 0 if answer.text is not None else failures + 1
                        if failures >= _MANY:
                            raise UserError(
                                f"{self.endpoint.url}: {failures} requests in a row failed; {self.last_reason}."
                            )
                        yield answer
            finally:
                for future in running:
                    future.cancel()

    def check(self) -> None:
        """Ask one short question, so that a mistake shows at once.

        Raises:
            UserError: no usable answer.
        """
        try:
            self._send(self._request("Say yes.", 16, 0.0))
        except _RequestError as error:
            raise UserError(
                f"{self.endpoint.url}: {error}; expected an OpenAI-compatible endpoint that answers."
            ) from None

    def _request(self, prompt: str, max_tokens: int, temperature: float) -> dict[str, Any]:
        return {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }

    def _answer(self, number: int, request: dict[str, Any]) -> Answer:
        key = xxhash.xxh3_128_hexdigest(json.dumps(request, sort_keys=True).encode("utf-8", "replace"))
        if key in self.known:
            return Answer(number, self.known[key], 0)
        for attempt in range(self.endpoint.tries):
            try:
                text, tokens = self._send(request)
            except _RequestError as error:
                self.last_reason = str(error)
                if not error.again:
                    raise UserError(f"{self.endpoint.url}: {error}.") from None
                if attempt + 1 < self.endpoint.tries:
                    grown = self.endpoint.pause * 2**attempt * random.uniform(0.5, 1.5)
                    time.sleep(grown if error.pause is None else error.pause)
                continue
            self._keep(key, text)
            return Answer(number, text, tokens)
        return Answer(number, None, 0)

    def _send(self, request: dict[str, Any]) -> tuple[str, int]:
        """Return the text of the answer and the tokens that it cost."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.endpoint.url.rstrip('/')}/chat/completions"
        try:
            sent = urllib.request.Request(url, json.dumps(request).encode(), headers)
            with urllib.request.urlopen(sent, timeout=self.endpoint.timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            raise _failed(error) from None
        except (
            OSError,
            ValueError,
            urllib.error.URLError,
        ) as error:  # refused, cut off, too late, no such host
            raise _RequestError(f"cannot be reached ({getattr(error, 'reason', error)})") from None
        except Exception as error:  # http.client's own, for half an answer
            raise _RequestError(f"broke off ({type(error).__name__})") from None
        return _read_answer(content)

    def _keep(self, key: str, text: str) -> None:
        with self._lock:
            self.known[key] = text
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with self.cache.open("a", encoding="utf-8") as file:
                # A line of its own also behind one that a kill cut short; empty lines are read over.
                file.write("\n" + json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n")


def _failed(error: urllib.error.HTTPError) -> _RequestError:
    detail = error.read(500).decode("utf-8", "replace").strip().replace("\n", " ")[:200]
    reason = f"answers {error.code} {error.reason}: {detail}".rstrip(":. ")
    wait_for = error.headers.get("Retry-After", "")
    pause = min(float(wait_for), 60.0) if wait_for.replace(".", "", 1).isdigit() else None
    return _RequestError(reason, again=error.code in (408, 409, 425, 429) or error.code >= 500, pause=pause)


def _read_answer(content: bytes) -> tuple[str, int]:
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        text = choice["message"]["content"]
        tokens = int((value.get("usage") or {}).get("total_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _RequestError(f"answers what is no chat completion: {content[:80]!r}") from None
    if not isinstance(text, str) or not text.strip():
        raise _RequestError("gives an empty answer")
    text = as_unicode(text)  # JSON can spell half characters, which no file takes
    if choice.get("finish_reason") == "length":
        # The last line is half a question; those before it are whole.
        text = text.rpartition("\n")[0]
        if not text.strip():
            raise _RequestError("gives half an answer, cut off at the bound on tokens")
    return text, tokens


def _read_cache(path: Path) -> dict[str, str]:
    """Return the answers kept on disk; a last line that a kill cut short is left out."""
    known: dict[str, str] = {}
    if path.exists():
        # Not splitlines: in JSON, U+2028 and U+0085 may stand inside a line.
        for line in path.read_text("utf-8", "replace").split("\n"):
            try:
                entry = json.loads(line)
                known[entry["key"]] = entry["text"]
            except (ValueError, KeyError, TypeError):
                continue
    return known
