"""What people read is in plain, present-day English: sentences of the program, its docstrings and comments, and the docs.

JSON names and stored facts keep the names that they had; a name is a single word in quotes or backticks and is not looked at.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

import detcheck

ROOT = Path(detcheck.__file__).parents[1]
BANNED = re.compile(
    r"\b(guilty|guilt|convict\w*|accus\w*|innocents?|culprits?|whosever|oftener|manieth|blotted|for want of|anew|likewise|cannot be told|"
    r"not to be told|rode|rides? along|riding along|whence|thereof|hereby|reckoned)\b",
    re.I,
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "detcheck").rglob("*.py")) + sorted((ROOT / "detcheck").rglob("*.[hj]*"))


def sentences(path):
    """(line, text) of all that is read as English."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        plain = re.sub(
            r"`[^`\n]+`", "", re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), text, flags=re.S)
        )
        return list(enumerate(plain.split("\n"), 1))
    if path.suffix != ".py":
        return [(n, line) for n, line in enumerate(text.split("\n"), 1) if "//" in line or path.suffix == ".j2"]
    found = [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip()
    ]
    comments = tokenize.generate_tokens(io.StringIO(text).readline)
    found += [(token.start[0], token.string) for token in comments if token.type == tokenize.COMMENT]
    return [(n, re.sub(r"`[^`]+`", "", said)) for n, said in found]


def test_no_word_of_a_courtroom_or_of_old():
    found = [
        f"{path.relative_to(ROOT)}:{n}: {m[0]}"
        for path in PAGES + SOURCES
        for n, text in sentences(path)
        for m in BANNED.finditer(text)
    ]
    assert not found, "\n".join(found)


def test_a_banned_word_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("the op is\nguilty, `guilty_in` is a name\n")
    assert [n for n, text in sentences(page) if BANNED.search(text)] == [2]
    source = tmp_path / "source.py"
    source.write_text('KEY = "culprit"\n"""Rows that rode together."""\nx = 1  # made anew\n')
    assert sorted(n for n, text in sentences(source) if BANNED.search(text)) == [2, 3]
