"""What the browser tests share: Chromium, the published book, and a page that may not complain.

They run by ``make test-browser``, and are skipped where Playwright or Chromium is missing.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthseg.project import project_root

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
    """Folder of the published book, which ``make test-browser`` builds before the tests."""
    folder = project_root() / "_build" / "html"
    assert (folder / "index.html").is_file(), "no book: build it with  synthseg book --published"
    return folder


@pytest.fixture(scope="session")
def new_page(chromium: Any) -> Callable[[], tuple[Any, list[str]]]:
    """Makes a page of Chromium, and a list of its errors and of what it asks the network for."""

    def make() -> tuple[Any, list[str]]:
        page, complaints = chromium.new_page(), []
        page.set_default_timeout(120_000)  # of a machine that is busy with something else
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("http:", "https:", "ws")) and complaints.append(request.url)
            ),
        )
        return page, complaints

    return make


@pytest.fixture
def page(new_page: Callable[[], tuple[Any, list[str]]]) -> Iterator[Any]:
    """A page of Chromium; an error in its console or a request to the network is a failure."""
    page, complaints = new_page()
    yield page
    page.close()
    assert complaints == []
