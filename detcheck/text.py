"""Model text is data: what a terminal, a browser or a reader could take for a command is shown, never sent."""

import unicodedata

SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
INVISIBLE = {
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
}  # controls, formats (right-to-left marks), surrogates, unassigned


def visible(text: str) -> str:
    """The text with every control, format and lone surrogate written out as an escape. Safe to encode as UTF-8 and in XML."""
    return "".join(c if unicodedata.category(c) not in INVISIBLE else SHORT.get(c) or escape(ord(c)) for c in text)


def escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
