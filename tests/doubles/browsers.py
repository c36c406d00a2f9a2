"""A headless Chromium for tests of pages."""

import contextlib
import os
import shutil

import pytest


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    if found := next((path for name in names if (path := shutil.which(name))), None):
        return found
    if os.environ.get("CI"):
        pytest.fail("CI must have a headless Chromium: apt-get install chromium")
    pytest.skip("no Chromium here: `apt-get install chromium` (or a Chrome on the PATH) brings one")


@contextlib.contextmanager
def opened():
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=args)
        yield browser
        browser.close()
