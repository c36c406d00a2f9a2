"""Who asks a server: an address without its user, and headers made of environment variables. None of it is shown, stored or quoted."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from detcheck.errors import UsageError
from detcheck.redacted import HIDDEN, hide_user, in_base64, patterns

KEYS = ("DETCHECK_API_KEY", "OPENAI_API_KEY")  # the first that is set is sent as a bearer token
SHORTEST = 6  # characters of a secret that is redacted in answers


class Url(str):
    """A base URL as it may be shown. What stood before an @ in it is kept apart, and never shown or stored."""

    credentials: tuple[str, str] | None

    def __new__(cls, text: str) -> Url:
        """Raises UsageError where it is no URL of a server."""
        import httpx

        shown = hide_user(text)
        try:
            parsed = httpx.URL(text.strip())
        except (httpx.InvalidURL, ValueError) as error:
            why = "" if "@" in text else f": {error}"  # what it quotes may be a part of the password
            raise UsageError(f"--base-url {shown}: not a URL{why}. Give one like http://localhost:8000") from None
        if parsed.scheme not in ("http", "https") or not parsed.host or "@" in parsed.host:
            raise UsageError(f"--base-url {shown}: wants http:// or https:// and a host, like http://localhost:8000")
        if parsed.query or parsed.fragment:
            raise UsageError(f"--base-url {shown}: leave out what follows ? or #")
        user = f"{HIDDEN}@" if parsed.userinfo else ""
        port = "" if parsed.port is None else f":{parsed.port}"
        host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        made = super().__new__(cls, f"{parsed.scheme}://{user}{host}{port}{parsed.path}".rstrip("/"))
        hidden = parsed.userinfo == HIDDEN.encode()  # it was stored: what stood there is gone
        made.credentials = (parsed.username, parsed.password) if parsed.userinfo and not hidden else None
        return made

    def bare(self) -> str:
        """Without credentials and without /v1: where /metrics is."""
        return self.replace(f"//{HIDDEN}@", "//").removesuffix("/v1")


@dataclass
class Secrets:
    """What must not be seen: the values of headers that were made of environment variables."""

    headers: dict[str, str] = field(default_factory=dict, repr=False)
    values: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def read(cls, named: Sequence[str], credentials: tuple[str, str] | None) -> Secrets:
        """`named`: "NAME=VARIABLE" each. Raises UsageError, without any value in it."""
        made = cls()
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key and not credentials:
            made.add("Authorization", f"Bearer {key.strip()}", key.strip(), "the key in the environment")
        if credentials:
            for part in filter(None, (":".join(credentials), *credentials)):
                made.values |= {part, *in_base64(part)}
        for one in named:
            name, equals, variable = one.partition("=")
            if not equals or not re.fullmatch(r"[A-Za-z_]\w*", variable) or not re.fullmatch(r"[\w-]+", name):
                raise UsageError(  # what stands there may be the value itself, and is not said again
                    "--header wants NAME=VARIABLE, the header's name and an environment variable that holds its value, like "
                    "X-Api-Key=GATEWAY_KEY: a value on the command line could be seen in the list of processes"
                )
            if variable not in os.environ:
                known = re.fullmatch(
                    r"[A-Z]+(_[A-Z]+)+", variable
                )  # a key does not look so, and could stand there by mistake
                which = variable if known else "of the name that stands behind its ="
                raise UsageError(
                    f"--header {name}: there is no environment variable {which}. Export it, or mend the name"
                )
            made.add(name, os.environ[variable].strip(), os.environ[variable].strip(), variable)
        return made

    def add(self, name: str, value: str, secret: str, source: str) -> None:
        if not value.isprintable() or not value.isascii():
            raise UsageError(f"{source} holds what no header can: write it in printable ASCII, on one line")
        for other in [other for other in self.headers if other.lower() == name.lower()]:
            del self.headers[other]  # a header that is named goes before the key
        self.headers[name] = value
        if secret:
            self.values |= {secret, *in_base64(secret), *in_base64(value)}

    @functools.cached_property
    def _text(self) -> list[re.Pattern[str]]:
        return [re.compile(one) for one in patterns(self.values)]

    @functools.cached_property
    def _raw(self) -> list[re.Pattern[bytes]]:
        return [re.compile(one.encode()) for one in patterns(v for v in self.values if len(v) >= SHORTEST)]

    def hide(self, text: str) -> str:
        """The text with secrets redacted: servers quote what they were sent."""
        for one in self._text:
            text = one.sub(HIDDEN, text)
        return text

    def hide_in(self, raw: bytes) -> bytes:
        """The same of an answer as it came, before anything is made of it. What is short could be any word of it, and stays."""
        for one in self._raw:
            raw = one.sub(HIDDEN.encode(), raw)
        return raw
