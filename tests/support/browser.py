"""A real Chromium, headless, for the tests of pages: one for all tests of an OS process.

Tests are skipped where Chromium, ChromeDriver or selenium is missing; with
``MORMOT_WS_REQUIRE_BROWSER=1`` that is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .programs import PATIENCE
from .waiting import wait_for

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

#: a browser that talks to nobody but our servers, also as root
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=900,700",
]


def missing() -> str:
    """Return what is needed for a browser, if it is not there; otherwise ''."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        there = False
    else:
        there = bool(shutil.which("chromium") and shutil.which("chromedriver"))
    names = "chromium, chromedriver (Debian: chromium, chromium-driver) and selenium"
    return "" if there else f"{names} are needed"


def start_chrome(profile: Path) -> Chrome:
    """Return a browser that keeps its files in *profile*. End it with ``quit()``."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.accept_insecure_certs = True
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    service = webdriver.ChromeService(str(shutil.which("chromedriver")))
    return webdriver.Chrome(options=options, service=service)


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests. Of the session, so that it is there before a test's threads and
    descriptors are counted.
    """
    if reason := missing():
        if os.environ.get("MORMOT_WS_REQUIRE_BROWSER") == "1":
            pytest.fail(f"MORMOT_WS_REQUIRE_BROWSER is set, but {reason}")
        pytest.skip(reason)
    driver = start_chrome(tmp_path_factory.mktemp("chromium"))
    try:
        yield driver
    finally:
        driver.quit()


class Tab:
    """One tab of the browser, and what a user does in it and sees in it."""

    def __init__(self, chrome: Chrome, url: str) -> None:
        chrome.switch_to.new_window("tab")
        self._chrome = chrome
        self.handle = chrome.current_window_handle
        chrome.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what JavaScript returns in the page."""
        self._chrome.switch_to.window(self.handle)
        return self._chrome.execute_script(script, *arguments)

    def text(self, id: str) -> str:
        """Return the text of the element *id*."""
        return str(self.run("return document.getElementById(arguments[0]).textContent", id))

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that *selector* finds."""
        return list(
            self.run(
                "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)",
                selector,
            )
        )

    def enter(self, id: str, *lines: str) -> None:
        """Type *lines* into the field *id*, each with the Enter key."""
        self._chrome.switch_to.window(self.handle)
        for line in lines:
            self._chrome.find_element("id", id).send_keys(f"{line}\n")

    def click(self, id: str) -> None:
        """Click at the element *id*."""
        self._chrome.switch_to.window(self.handle)
        self._chrome.find_element("id", id).click()

    def wait_state(self, state: str) -> None:
        """Wait until the page is in that state of its connection."""
        self.wait(lambda: self.run("return document.body.dataset.state") == state, f"state {state}")

    def wait_texts(self, selector: str, expected: list[str]) -> None:
        """Wait until these are the texts of the elements that *selector* finds."""
        try:
            self.wait(lambda: self.texts(selector) == expected, "")
        except AssertionError:
            assert self.texts(selector) == expected
            raise

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait for *condition*."""
        wait_for(condition, PATIENCE, what)


@pytest.fixture
def open_tab(chrome: Chrome) -> Iterator[Callable[[str], Tab]]:
    """Return what opens a tab; all of them are closed behind the test."""
    chrome.get_log("browser")  # forgets what earlier tests have left
    first = chrome.current_window_handle
    yield lambda url: Tab(chrome, url)
    for handle in chrome.window_handles:
        if handle != first:
            chrome.switch_to.window(handle)
            chrome.close()
    chrome.switch_to.window(first)


def complaints(chrome: Chrome) -> list[str]:
    """Return what the browser has logged as wrong."""
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
