"""What must not be seen, taken out of texts: who is named in an address, and a secret in any form in which others write it again. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

HIDDEN = "***"
NAMED = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}  # characters that HTML has names for


def hide_user(text: str) -> str:
    """Of an address: whatever stands before the last @ may be a name and a password, and what follows ? or # a key."""
    return re.sub(
        r"(?<=[?#]).*",
        HIDDEN,
        re.sub(r"^(\s*[\w+.-]+://)?.*@", rf"\1{HIDDEN}@", text, flags=re.DOTALL),
        flags=re.DOTALL,
    )


def hide_users(text: str) -> str:
    """Of a sentence that quotes addresses."""
    return re.sub(r"(?<=://)[^\s/?#@]*(?:@[^\s/?#@]*)*@", f"{HIDDEN}@", text)


def patterns(secrets: Iterable[str]) -> list[str]:
    """Match each of them (printable ASCII), plain or with its signs escaped as in JSON, in an address or in HTML.

    One by one they are found faster than together: each begins with fixed letters.
    """
    return ["".join(map(spelled, one)) for one in sorted(secrets, key=len, reverse=True)]


def spelled(character: str) -> str:
    """Letters and digits are escaped by nobody."""
    if character.isalnum():
        return character
    code = f"{ord(character):02x}"
    digits = "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in code)
    ways = [
        rf"\\*{re.escape(character)}",
        rf"\\+u00{digits}",
        f"%{digits}",
        f"&#(?:[xX]0*{digits}|0*{ord(character)});",
    ]
    return f"(?:{'|'.join([*ways, f'&{NAMED[character]};'] if character in NAMED else ways)})"


def in_base64(text: str) -> set[str]:
    """Both alphabets; without the last digits, which depend on what follows."""
    whole = base64.b64encode(text.encode()).decode()[: len(text.encode()) * 4 // 3]
    return {whole, whole.translate(str.maketrans("+/", "-_"))}
