"""Requests to a server over HTTP: no secret leaves but in a header, no answer is trusted, whatever goes wrong is said in words.

Redirects are not followed, so that a key never goes to another host. An answer is read up to a limit, unpacked, so that a small
one cannot fill memory. Only 429 and 503 with Retry-After are waited for and sent again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcheck import __version__, strict_json
from detcheck.engines.server.credentials import KEYS, Secrets, Url
from detcheck.errors import FailedError, UsageError
from detcheck.redacted import hide_users

if TYPE_CHECKING:
    import httpx

LARGEST_BYTES = 32 << 20  # of an answer, unpacked
METRICS_S = 5.0  # that a look at metrics may take
WAIT_S, WAITS = 0.5, 10  # the least wait before a request is sent again, and how often it is, at most
SHOWN = 120  # characters of an answer that an error quotes


@dataclass(frozen=True)
class HttpResponse:
    """What a server said to one request."""

    status: int
    body: Any
    """JSON, or text where that was asked for"""
    resent: int = 0
    """times it had to be sent again, since the server was busy and said when"""


class NoAnswerError(Exception):
    """There is none, or none that can be read. The text is the reason, and `status` the server's, where it gave one."""

    def __init__(self, reason: str, status: int | None = None, resent: int = 0) -> None:
        super().__init__(reason)
        self.status, self.resent = status, resent


class Client:
    """One server. Use it inside one event loop, and close it there."""

    def __init__(
        self, url: Url, secrets: Secrets, timeout_s: float, ca_bundle: str | None = None, model: str | None = None
    ) -> None:
        """`model`: what is asked for, where that is known: its name is never redacted."""
        self.url, self._secrets, self._timeout_s, self._model = url, secrets, timeout_s, model or ""
        self._verify = context(ca_bundle) if url.startswith("https") else False  # False: there is no TLS
        # One a request in flight, kept for the next of its method: httpx's own pool looks through all its connections for each request.
        self._idle: dict[str, list[httpx.AsyncClient]] = {}

    def _take(self, method: str) -> httpx.AsyncClient:
        import httpx

        if self._idle.get(method):
            return self._idle[method].pop()
        return httpx.AsyncClient(
            auth=self.url.credentials,
            headers={"User-Agent": f"detcheck/{__version__}", "Accept": "application/json", **self._secrets.headers},
            verify=self._verify,
            follow_redirects=False,
            timeout=httpx.Timeout(self._timeout_s, connect=min(self._timeout_s, 10.0)),
        )

    async def close(self) -> None:
        """Ends all connections that nobody uses. The next request makes a new one."""
        while self._idle:
            _, idle = self._idle.popitem()
            for http in idle:
                await http.aclose()

    async def json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        before_resending: Callable[[], None] = lambda: None,
    ) -> HttpResponse:
        """`before_resending` may raise NoAnswerError where no more may be sent.

        Raises NoAnswerError for everything but an answer of status 200 that holds one JSON object or list.
        """
        started, resent = time.monotonic(), 0
        while True:
            left = self._timeout_s - (time.monotonic() - started)
            try:
                async with asyncio.timeout(left):
                    status, headers, raw = await self._exchange(method, path, body)
            except TimeoutError:
                raise NoAnswerError(f"no answer within {self._timeout_s:g} s (--timeout)", resent=resent) from None
            except NoAnswerError as error:
                error.resent = resent
                raise
            if status == 200:
                return HttpResponse(status, self._read(raw, headers.get("content-type", "")), resent)
            wait = retry_after(headers.get("retry-after")) if status in (429, 503) else None
            too_long = wait is not None and max(wait, WAIT_S) >= self._timeout_s - (time.monotonic() - started)
            if wait is None or too_long or resent >= WAITS:
                raise NoAnswerError(self._refusal(status, headers, raw, wait if too_long else None), status, resent)
            await asyncio.sleep(max(wait, WAIT_S))
            try:
                before_resending()
            except NoAnswerError as error:
                error.resent = resent
                raise
            resent += 1

    async def text(self, path: str) -> str:
        """A page of plain text, like /metrics. Raises NoAnswerError."""
        try:
            async with asyncio.timeout(min(self._timeout_s, METRICS_S)):
                status, headers, raw = await self._exchange("GET", path, None)
        except TimeoutError:
            raise NoAnswerError(f"no answer within {min(self._timeout_s, METRICS_S):g} s") from None
        if status != 200:
            raise NoAnswerError(self._refusal(status, headers, raw, None), status)
        return self._secrets.hide_quoted(raw.decode("utf-8", "replace"), self._model)

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        import httpx

        http = None
        try:
            http = self._take(method)
            async with http.stream(method, self.url.bare() + path, json=body) as response:
                parts, size = [], 0
                async for part in response.aiter_bytes(1 << 16):
                    size += len(part)
                    if size > LARGEST_BYTES:
                        raise NoAnswerError(
                            f"the answer is larger than {LARGEST_BYTES >> 20} MiB", response.status_code
                        )
                    parts.append(part)
                return response.status_code, response.headers, b"".join(parts)
        except httpx.HTTPError as error:
            what = self._secrets.hide(str(error)) or "the connection broke"
            raise NoAnswerError(f"{type(error).__name__}: {what}") from None
        except NoAnswerError:
            raise
        except Exception as error:  # noqa: BLE001  the boundary: whatever a library dies of may quote the headers that it was given
            said = hide_users(self._secrets.hide(first_line(error)))
            raise NoAnswerError(f"it cannot be sent ({type(error).__name__}: {said})") from None
        finally:
            if http is not None:
                self._idle.setdefault(method, []).append(http)

    def _read(self, raw: bytes, content_type: str) -> Any:
        try:
            body = self._secrets.hide_in(strict_json.loads(raw.decode("utf-8-sig")), self._model)
        except strict_json.TwiceError as error:
            raise NoAnswerError(
                f"the answer holds {self._secrets.hide(str(error))[:SHOWN]!r} twice, and readers differ in which of them they take",
                200,
            ) from None
        except (ValueError, RecursionError):
            said = self._secrets.hide(content_type)[:SHOWN] or "no content type"
            begins = self._secrets.hide(as_text(raw))[:SHOWN]
            raise NoAnswerError(f"the answer is not JSON ({said}): {begins!r}", 200) from None
        if not isinstance(body, dict | list):
            raise NoAnswerError(f"the answer is not a JSON object: {self._secrets.hide(str(body))[:SHOWN]!r}", 200)
        return body

    def _refusal(self, status: int, headers: Mapping[str, str], raw: bytes, wait: float | None) -> str:
        """What a status other than 200 says."""
        if 300 <= status < 400:
            return f"status {status}: it points to {self._secrets.hide(headers.get('location', 'nowhere'))[:SHOWN]!r}. Give that as --base-url"
        said = as_text(raw)
        try:
            found = json.loads(raw.decode("utf-8-sig"))
            found = found.get("error", found.get("detail", found.get("message", found)))
            said = found.get("message", found) if isinstance(found, dict) else found
        except (ValueError, AttributeError, RecursionError):
            pass
        later = "" if wait is None else f" (Retry-After {wait:g} s, longer than --timeout leaves)"
        return f"status {status}{later}: {self._secrets.hide(' '.join(str(said).split()))[:SHOWN]!r}"


def as_text(raw: bytes) -> str:
    """To quote it. Without NULs: between them the letters of a key would stand as UTF-16 and UTF-32 have them, and not be known for one."""
    return raw.decode("utf-8", "replace").replace("\0", "")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][: 4 * SHOWN]


def retry_after(value: str | None) -> float | None:
    """Seconds. A date is not understood: a server that is busy gives seconds."""
    return float(value) if value and re.fullmatch(r"\s*\d{1,6}(\.\d+)?\s*", value) else None


def context(ca_bundle: str | None) -> ssl.SSLContext:
    """Verifies, always: by the system's authorities, or by those of a file. Raises UsageError."""
    if ca_bundle is None:
        import certifi

        return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    if not Path(ca_bundle).is_file():
        raise UsageError(f"--ca-bundle {ca_bundle}: no such file")
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(f"--ca-bundle {ca_bundle}: holds no certificates in PEM form: {error}") from None


def unreachable(url: Url, error: NoAnswerError) -> FailedError:
    if error.status in (401, 403):
        return FailedError(f"{url} does not let us in: {error}. Set {KEYS[0]} or {KEYS[1]}, or name a --header")
    return FailedError(f"{url} cannot be asked: {error}. Is the server up, and is that its address?")
