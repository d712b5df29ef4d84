"""No page of the built site is wider than the window:  python -m tests.page_widths FOLDER

Opens each page in Chromium, as wide as a phone and as a small laptop. What is wide, a table or a
line of code, has to scroll in itself, or to wrap. Exits with 1 if a page does not fit. It is a step
of CI, and no module of tests: the site has to be built first.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from .support import browser

#: pixels of CSS
WIDTHS = (390, 1280)

#: elements that stick out of the column of text, and are not in a box that scrolls by itself. The
#: theme lets the whole column scroll on a phone: that would not be seen in the page's width
_TOO_WIDE = """
const around = [document.documentElement, document.body, document.querySelector('.content')];
if (!around.some((each) => each && each.scrollWidth > each.clientWidth))
  return [];
const room = document.documentElement.clientWidth;
const scrolls = (each) => each && !around.includes(each)
  && (getComputedStyle(each).overflowX !== 'visible' || scrolls(each.parentElement));
const wide = [...document.querySelectorAll('.content *')].filter((each) =>
  each.getBoundingClientRect().right > room && !scrolls(each.parentElement));
return [...wide.map((each) => `${each.localName}: ${each.textContent.trim().slice(0, 60)}`),
        'the page'];
"""


def main(folder: Path) -> int:
    """Check the pages in *folder*; return the exit code."""
    if reason := browser.missing():
        print(f"The widths of the pages are not checked: {reason}")
        return int(os.environ.get("MORMOT_WS_REQUIRE_BROWSER") == "1")
    pages = [page for page in sorted(folder.rglob("*.html")) if "_modules" not in page.parts]
    if not pages:
        print(f"There are no pages in {folder}")
        return 1
    faults = 0
    with tempfile.TemporaryDirectory(prefix="mormot_ws-", ignore_cleanup_errors=True) as profile:
        chrome = browser.start_chrome(Path(profile))
        try:
            for page in pages:
                chrome.get(page.resolve().as_uri())
                for width in WIDTHS:
                    chrome.execute_cdp_cmd(
                        "Emulation.setDeviceMetricsOverride",
                        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
                    )
                    wide = chrome.execute_script(_TOO_WIDE)
                    if wide:
                        faults += 1
                        print(f"{page.relative_to(folder)} at {width}: {wide[0]}")
        finally:
            chrome.quit()
    print(f"{len(pages)} pages, at {' and '.join(map(str, WIDTHS))} pixels: {faults} too wide")
    return 1 if faults else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
