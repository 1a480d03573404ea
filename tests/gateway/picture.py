"""Takes the picture of the playground that README and docs show: a race in a real browser, on a service that runs.

    scripts/picture [--url http://127.0.0.1:8000] [--file docs/images/playground.png]

Start the service with the real model, and with `NIMBLE_SHARE_DRAFTS=false`: otherwise a second picture's drafts come
from the answer of the first.
"""

import argparse
import re
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from nimble_coder.bench.asking import URL
from tests.gateway.test_playground import CHROMIUM

TOKENS = 120
LONGEST = 600_000
"""Milliseconds that a race may take, on a busy machine."""


def take(url: str, file: Path) -> str:
    """Races once and writes the picture; returns what the page says of the race."""
    with (
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme="light")
        page.goto(url)
        expect(page.locator("#w")).to_have_attribute("max", re.compile(r"\d+"))
        page.fill("#max_tokens", str(TOKENS))
        page.check("#race")
        page.click("#go")
        expect(page.locator("#state")).to_have_text(re.compile("^finished"), timeout=LONGEST)
        file.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=file)
        return f"{page.inner_text('#speed_up')} times as fast as plain; {page.inner_text('#state')}"


def main() -> None:
    """Takes it, and says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=URL, help="of the service's HTTP endpoint")
    parser.add_argument("--file", type=Path, default=Path("docs/images/playground.png"))
    args = parser.parse_args()
    print(f"{args.file}: {take(args.url, args.file)}")


if __name__ == "__main__":
    main()
