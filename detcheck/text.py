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
# What is drawn as nothing though it is a letter, a mark or a symbol (Unicode's Default_Ignorable_Code_Point, and the empty Braille pattern).
BLANK = frozenset((
    0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0),
))  # fmt: skip


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
    """The text with every control, format, lone surrogate and what is drawn as nothing written out as an escape. Safe to encode as UTF-8 and in XML."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if shows(c) else SHORT.get(c) or escape(ord(c)) for c in text)


def shows(character: str) -> bool:
    return unicodedata.category(character) not in INVISIBLE and ord(character) not in BLANK


def escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
