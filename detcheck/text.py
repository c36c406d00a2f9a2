"""Model text is data: what a terminal, a browser or a reader could take for a command is shown, never sent."""

import unicodedata

SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
QUOTES = "'\""
INVISIBLE = {
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
}  # controls, formats (right-to-left marks), surrogates, unassigned


def article(noun: str) -> str:
    """A name after its article: "an int32 tensor", "a uint8 array". Names that begin with u are mostly said like "you"."""
    return f"{'an' if noun.lstrip(QUOTES)[:1].lower() in set('aeio') else 'a'} {noun}"


def percent(share: float, digits: str = ".3g") -> str:
    """A share of 0 to 1 as "12.3%". Rounding makes no share all or none: what is nearly so is ">99.9%" or "<0.1%".

    `digits` is a format of Python's: ".3g" has three significant digits, ".1f" one after the point.
    """
    said = format(100 * share, digits)
    step = float(f"1e-{digits[1:-1]}") if digits.endswith("f") else 0.1
    if share < 1 and float(said) >= 100:
        said = f">{100 - step:g}"
    elif share > 0 and not float(said):
        said = f"<{step:g}"
    return f"{said}%"


def visible(text: str) -> str:
    """The text with every control, format and lone surrogate written out as an escape. Safe to encode as UTF-8 and in XML."""
    return "".join(c if unicodedata.category(c) not in INVISIBLE else SHORT.get(c) or escape(ord(c)) for c in text)


def escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
