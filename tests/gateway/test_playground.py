"""The playground in a real browser."""

import itertools
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import generated, is_cut_short

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs: pip install playwright")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

TOKENS_OF_STEPS = "spans => spans.map(span => span.title.match(/(\\d+) tokens/)[1])"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        yield browser


@pytest.fixture
def page(browser: "Browser", gateway: Serving) -> Iterator["Page"]:
    """The page, loaded; errors and requests to anywhere else fail the test."""
    page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme="light")
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda r: None if r.url.startswith(gateway.addresses.http) else complaints.append(r.url))
    page.goto(gateway.addresses.http + "/")
    playwright.expect(page.locator("#w")).to_have_attribute("max", re.compile(r"\d+"))
    yield page
    page.close()
    assert complaints == []


def body_of(request: "Request") -> Any:
    """What was sent, of which the driver only says that it may be nothing."""
    return request.post_data_json


def finished(page: "Page") -> None:
    playwright.expect(page.locator("#state")).to_have_text(re.compile("^finished"), timeout=30_000)


@needs_browser
def test_a_completion_streams_with_a_shade_for_each_step(page: "Page", gateway: Serving) -> None:
    assert "(8,8,8)" in page.inner_text("#model")
    with page.expect_request("**/v1/completions") as sent:
        page.click("#go")
    assert "lookahead" not in body_of(sent.value)
    finished(page)
    assert page.inner_text("#state").endswith("drafts by matching suffixes")
    asked = {"prompt": page.input_value("#prompt"), "max_tokens": 120}
    expected = httpx.post(f"{gateway.addresses.http}/v1/completions", json=asked, timeout=30).json()
    assert page.text_content("#answer") == expected["choices"][0]["text"]
    assert int(page.inner_text("#tokens")) == expected["usage"]["completion_tokens"]
    first, *others = map(int, page.eval_on_selector_all("#answer span", TOKENS_OF_STEPS))
    assert first + sum(others) == expected["usage"]["completion_tokens"]
    assert page.inner_text("#per_step") == f"{sum(others) / len(others):.2f}"
    assert float(page.inner_text("#speed")) > 0
    shades = page.eval_on_selector_all("#answer span", "spans => spans.map(s => s.style.background)")
    assert len(set(shades)) == 4
    assert all(a != b for a, b in itertools.pairwise(shades))


@needs_browser
def test_lookahead_can_be_switched_off_and_changes_no_text(page: "Page") -> None:
    page.click("#go")
    finished(page)
    fast = page.text_content("#answer")
    page.uncheck("#lookahead")
    assert page.is_disabled("#w")
    page.click("#go")
    finished(page)
    assert page.text_content("#answer") == fast
    assert page.inner_text("#per_step") == "1.00"
    assert page.inner_text("#state").endswith("plain decoding")


@needs_browser
def test_a_race_shows_both_runs_their_equal_text_and_the_speed_up(page: "Page") -> None:
    page.check("#race")
    for name, value in (("w", "4"), ("n", "3"), ("g", "4")):  # on a busy machine the service may choose no drafts
        page.fill(f"#{name}", value)
    with page.expect_request(lambda r: r.method == "POST" and body_of(r).get("lookahead") is False):
        page.click("#go")
    finished(page)
    assert page.inner_text("#state").endswith("lookahead (4,3,4); the same text")
    assert page.text_content("#answer") == page.text_content("#plain_answer") != ""
    assert float(page.inner_text("#speed_up")) > 0
    steps = [page.locator(f"{lane} span").count() for lane in ("#answer", "#plain_answer")]
    assert steps[0] < steps[1] == int(page.inner_text("#tokens"))
    page.uncheck("#lookahead")
    assert page.is_disabled("#race")
    assert page.is_hidden("#plain_part")


@needs_browser
def test_a_race_ends_with_its_last_step_painted_however_busy_the_browser(page: "Page") -> None:
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 20})
    page.check("#race")
    page.click("#go")
    finished(page)
    assert page.text_content("#answer") == page.text_content("#plain_answer") != ""


@needs_browser
def test_smaller_wng_can_be_chosen_and_larger_cannot(page: "Page") -> None:
    for name, value in (("w", "4"), ("n", "3"), ("g", "4")):
        page.fill(f"#{name}", value)
    with page.expect_request("**/v1/completions") as asked:
        page.click("#go")
    assert body_of(asked.value)["lookahead"] == [4, 3, 4]
    finished(page)
    assert page.inner_text("#state").endswith("lookahead (4,3,4)")
    page.fill("#n", "")
    with page.expect_request("**/v1/completions") as asked:
        page.click("#go")
    assert body_of(asked.value)["lookahead"] == [4, 8, 4]
    finished(page)
    page.fill("#w", "99")
    page.click("#go")
    assert page.eval_on_selector("#w", "input => input.validity.rangeOverflow")


@needs_browser
def test_infill_shows_the_suffix_behind_the_answer(page: "Page") -> None:
    page.select_option("#mode", "infill")
    with page.expect_request("**/v1/completions") as asked:
        page.click("#go")
    assert "def push" in body_of(asked.value)["suffix"]
    finished(page)
    playwright.expect(page.locator("#answer .given")).to_have_text(re.compile("def push"))


@needs_browser
def test_stop_ends_the_generation_in_the_engine(page: "Page", gateway: Serving) -> None:
    before = generated(gateway)
    page.fill("#max_tokens", "8000")
    page.fill("#prompt", "import os\nimport sys\n\ndef main(argv):\n    ")
    page.click("#go")
    page.wait_for_selector("#answer span")
    page.click("#stop")
    playwright.expect(page.locator("#state")).to_have_text("stopped")
    assert is_cut_short(gateway, before, 8000)


def test_the_page_is_one_file(http: httpx.Client) -> None:
    answer = http.get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", answer.text)
