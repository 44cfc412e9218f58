"""What the browser tests share: Chromium, the published book, and a page that may not complain.

They run by ``make test-browser``, and are skipped where Playwright or Chromium is missing.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synthseg import publishing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; tests take ``page``, which is a tab of it."""
    needed = "needs the package playwright: pip install 'synthseg[test]'"
    playwright = pytest.importorskip("playwright.sync_api", reason=needed)
    if CHROMIUM is None:
        pytest.skip("needs Chromium: no program of the name chromium was found")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def book() -> Path:
    """Folder of the published book, just built."""
    return publishing.build_published().parent


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of Chromium; an error in its console or a request to the network is a failure."""
    page, complaints = chromium.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("http:", "https:", "ws")) and complaints.append(request.url)
        ),
    )
    yield page
    page.close()
    assert complaints == []
