"""The site of docs/: builds strictly, has every page in its contents, and loads nothing from elsewhere."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(  # what a browser fetches by itself: not <a href>, which is a reader's to follow
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\b(?:src|srcset)=["']?(https?:)?//[^"'> ]+"""
    r"""|<link\b(?![^>]*rel=["']?(?:canonical|next|prev))[^>]*?href=["']?(?:https?:)?//[^"'> ]+""",
    re.I,
)


def copied(folder):
    """The sources of the site, in that folder."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    return folder


def build(folder):
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})


def pages_of(entry):
    """The pages that an entry of the contents leads to."""
    if isinstance(entry, str):
        return [entry]
    return [page for below in (entry.values() if isinstance(entry, dict) else entry) for page in pages_of(below)]


def wrong_contents(folder):
    """What is wrong with the contents: a page that they do not have, or have twice, and one that is not there."""
    contents = pages_of(tomllib.loads((folder / "zensical.toml").read_text("utf-8"))["project"]["nav"])
    there = {path.relative_to(folder / "docs").as_posix() for path in (folder / "docs").rglob("*.md")}
    return (
        [f"docs/{page} is not in `nav` of zensical.toml" for page in sorted(there - set(contents))]
        + [f"`nav` of zensical.toml has docs/{page}, which is not there" for page in sorted(set(contents) - there)]
        + [f"`nav` of zensical.toml has docs/{page} twice" for page in sorted(there) if contents.count(page) > 1]
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = copied(tmp_path_factory.mktemp("site"))
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_page_is_built(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()


def test_a_broken_link_and_a_missing_anchor_end_the_build(tmp_path):
    folder = copied(tmp_path)
    page = folder / "docs" / "concepts.md"
    sound = page.read_text("utf-8")
    for link, said in (
        ("[x](nowhere.md)", "page does not exist"),
        ("[x](verdicts.md#nowhere)", "anchor does not exist"),
    ):
        page.write_text(f"{sound}\n{link}\n", "utf-8")
        done = build(folder)
        assert done.returncode != 0 and said in done.stdout + done.stderr


def test_every_page_is_in_the_contents():
    assert wrong_contents(ROOT) == []


def test_a_page_that_is_not_in_the_contents_is_seen(tmp_path):
    folder = copied(tmp_path)
    (folder / "docs" / "lost.md").write_text("# Lost\n")
    (folder / "docs" / "verdicts.md").unlink()
    assert wrong_contents(folder) == [
        "docs/lost.md is not in `nav` of zensical.toml",
        "`nav` of zensical.toml has docs/verdicts.md, which is not there",
    ]


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not LOADED.search(page.read_text("utf-8")), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text("utf-8")), sheet.name


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://elsewhere/x.js">',
        "<link rel=stylesheet href=https://fonts/css>",
        '<img alt="x" src="//elsewhere/x.png">',
    ],
)
def test_what_is_loaded_from_elsewhere_is_seen(text):
    assert LOADED.search(text) and not LOADED.search('<a href="https://elsewhere/">')


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(site):
    """The address of the site, on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_site_in_a_browser(served, scheme, width):
    """Every page opens on a phone without an error, asks nobody else and is no wider than the screen; on a desk some do, and the search finds."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if not chromium:
        if os.environ.get("CI"):
            pytest.fail("CI must have a headless Chromium: apt-get install chromium")
        pytest.skip("no Chromium here: `apt-get install chromium` (or a Chrome on the PATH) brings one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
        troubles, asked = [], []
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        every = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
        for markdown in every if width < 1000 else ("reference/completions.md", "tutorial.md", "index.md"):
            name = markdown.removesuffix(".md") + ".html"
            page.goto(f"{served}/{name}")
            assert page.locator("article h1").is_visible(), name
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        assert page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
        if width > 1000:
            page.keyboard.press("/")
            page.keyboard.type("speculative decoding")
            page.locator("a[href*='faq.html'][href$='#what-about-speculative-decoding']").first.wait_for()
        browser.close()
    assert troubles == []
    assert {url for url in asked if not url.startswith((served, "data:"))} == set()
