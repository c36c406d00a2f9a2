"""Who asks a server: an address without its user, and headers made of environment variables. None of it is shown, stored or quoted."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detcheck.errors import UsageError
from detcheck.redacted import HIDDEN, hide_user, in_base64, patterns

KEYS = ("DETCHECK_API_KEY", "OPENAI_API_KEY")  # the first that is set is sent as a bearer token
SHORTEST = 6  # characters of a secret that is redacted in answers: a shorter one could be a part of any word
SHORT = (
    f"a key or password that was sent has fewer than {SHORTEST} characters: where the server says it again in an answer, it is stored, since it "
    "could be a part of any word"
)
# Texts of an answer that are no secret even where they are spelled like one: words of OpenAI's API, and vLLM's names of tokens.
WORDS = re.compile(
    r"assistant|length|content_filter|tool_calls|function_call|function|text_completion|chat\.completion|token_id:\d+"
)
FIELD = re.compile(r"[a-z_]+")  # how the API's own keys look
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


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
        if (
            credentials
        ):  # a user's name alone is no secret, and may be the model's; one without a password is the key itself
            user, password = credentials
            for part in (f"{user}:{password}", password or user):
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

    @property
    def short(self) -> bool:
        """Whether one is too short to be redacted in answers."""
        return any(len(value) < SHORTEST for value in self.values)

    @functools.cached_property
    def _text(self) -> list[re.Pattern[str]]:
        return [re.compile(one) for one in patterns(self.values)]

    @functools.cached_property
    def _long(self) -> list[re.Pattern[str]]:
        return [re.compile(one) for one in patterns(v for v in self.values if len(v) >= SHORTEST)]

    def hide(self, text: str) -> str:
        """The text with secrets redacted: servers quote what they were sent."""
        for one in self._text:
            text = one.sub(HIDDEN, text)
        return text

    def hide_in(self, value: Any, model: str = "") -> Any:
        """The same of what a server's answer holds, once it is read: of texts and of keys, not of numbers, nor of the API's own words.

        `model`: what was asked for, by a name that may have a secret in it; the name stays as it is.
        """
        if isinstance(value, str):
            return self._hide_long(value, model)
        if isinstance(value, list):
            return [self.hide_in(one, model) for one in value]
        if isinstance(value, dict):
            return {
                key if FIELD.fullmatch(key) else self._hide_long(key, model): self.hide_in(one, model)
                for key, one in value.items()
            }
        return value

    def hide_quoted(self, text: str, model: str = "") -> str:
        """The same of a page of metrics, where all that is no number of its own is in quotes."""
        if not any(one.search(text) for one in self._long):
            return text
        return QUOTED.sub(lambda found: f'"{self._hide_long(found[0][1:-1], model)}"', text)

    def _hide_long(self, text: str, model: str) -> str:
        if len(text) < SHORTEST or WORDS.fullmatch(text):
            return text
        if model and model in text and self._found(model) != model:
            return model.join(map(self._found, text.split(model)))
        return self._found(text)

    def _found(self, text: str) -> str:
        for one in self._long:
            text = one.sub(HIDDEN, text)
        return text
