"""The pages in a real Chromium."""

import functools
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.service import ROOT, Service, free_port, tool

pytestmark = pytest.mark.slow

STATIC = ROOT / "static"
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --window-size=1280,1180"""


def chromium(folder: Path | str) -> webdriver.Chrome:
    """Start a headless Chromium with its data in an empty folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = tool("chromium")
    for flag in [*FLAGS.split(), f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(tool("chromedriver")))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *message: Any) -> None:
        pass


@pytest.fixture(scope="module")
def other_origin() -> Iterator[str]:
    """The page from a port that is not the service's."""
    handler = functools.partial(Quiet, directory=STATIC)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def text(browser: webdriver.Chrome, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def wait_for(browser: webdriver.Chrome, selector: str, expected: str) -> None:
    WebDriverWait(browser, 10).until(
        lambda _: expected in text(browser, selector),
        f"{selector} does not say {expected!r}",
    )


def open_page(browser: webdriver.Chrome, origin: str, query: str = "") -> None:
    """Open the page and wait until it has asked for its first flower and its regions."""
    browser.get(f"{origin}/index.html{query}")
    wait_for(browser, "#species", "virginica")
    wait_for_plot(browser)


def wait_for_plot(browser: webdriver.Chrome) -> None:
    script = """
        const points = document.querySelectorAll("#points use").length;
        return points === 150 && borders.getAttribute("d");
    """
    WebDriverWait(browser, 10).until(
        lambda _: browser.execute_script(script), "the plot is not complete"
    )


def test_the_health_check_reads_hello(browser: webdriver.Chrome, service: Service) -> None:
    browser.get(f"http://127.0.0.1:{service.port}/")
    assert text(browser, "body") == "hello!!"


def test_the_page_shows_the_flower_and_the_regions(
    browser: webdriver.Chrome, service: Service
) -> None:
    browser.get_log("browser")
    url = f"http://127.0.0.1:{service.port}"
    open_page(browser, f"{url}/static")
    assert text(browser, "#probability-virginica output") == "99.5 %"
    assert f"curl '{url}/predict_proba'" in text(browser, "#curl")
    assert json.loads(text(browser, "#answer"))["return"]["virginica"] == pytest.approx(0.995155)
    assert browser.get_log("browser") == []


def test_a_click_and_the_keyboard_place_the_flower(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    frame = browser.find_element(By.ID, "frame")
    ActionChains(browser).move_to_element_with_offset(frame, -200, 150).click().perform()
    wait_for(browser, "#species", "setosa")
    assert '"petalLengthCm": 1.' in text(browser, "#curl")
    browser.find_element(By.ID, "petalLengthCm").send_keys(Keys.END)
    wait_for(browser, "#species", "virginica")
    assert '"petalLengthCm": 7.5' in text(browser, "#fetch")


def test_a_sepal_slider_repaints_the_regions(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    picture = "return document.querySelector('canvas').toDataURL()"
    before = browser.execute_script(picture)
    browser.find_element(By.ID, "sepalWidthCm").send_keys(Keys.HOME)
    WebDriverWait(browser, 10).until(lambda _: browser.execute_script(picture) != before)


def test_requests_do_not_pile_up(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    most = browser.execute_async_script("""
        const done = arguments[0], real = window.fetch;
        let running = 0, most = 0, calls = 0;
        window.fetch = async (...request) => {
          most = Math.max(most, ++running);
          calls += 1;
          try { return await real(...request); } finally { running -= 1; }
        };
        for (let i = 0; i < 100; i++) {
          sepalLengthCm.value = 4 + i / 25;
          sepalLengthCm.dispatchEvent(new Event("input", { bubbles: true }));
        }
        setTimeout(() => { window.fetch = real; done([most, calls]); }, 1500);
    """)
    assert most[0] == 2  # one for the flower and one for the regions
    assert most[1] <= 8
    assert '"sepalLengthCm": 8' in text(browser, "#curl")


def test_the_page_works_from_another_origin(browser: webdriver.Chrome, other_origin: str) -> None:
    with Service(GUNICORN_CMD_ARGS="--access-logfile -") as service:
        browser.get_log("browser")
        open_page(browser, other_origin, f"?api=http://127.0.0.1:{service.port}/")
        assert browser.get_log("browser") == []
        assert '"OPTIONS /predict_proba HTTP/1.1" 200' in service.logged()


def test_an_error_is_readable_from_another_origin(
    browser: webdriver.Chrome, other_origin: str, service: Service
) -> None:
    browser.get(f"{other_origin}/openapi.json")
    status, problem = browser.execute_async_script(
        """
        const [url, done] = arguments;
        const headers = { "Content-Type": "application/json" };
        fetch(url, { method: "POST", headers, body: "{}" }).then(async (response) =>
          done([response.status, await response.json()]));
        """,
        f"http://127.0.0.1:{service.port}/predict",
    )
    assert status == 422
    assert problem["errors"][0]["pointer"] == "/sepalLengthCm"


def test_the_page_says_what_the_service_refuses(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    number = browser.find_element(By.CSS_SELECTOR, "#petalWidthCm + input")
    number.send_keys(Keys.END, Keys.BACKSPACE * 3)
    wait_for(browser, "#problem", "422 Unprocessable Entity")
    assert "/petalWidthCm expected a number from 0 to 100, in cm, got null" in text(
        browser, "#problem"
    )
    assert text(browser, "#species") == "?"
    number.send_keys("1.8")
    wait_for(browser, "#species", "virginica")
    assert text(browser, "#problem") == ""


def test_the_page_recovers_when_the_service_is_back(
    browser: webdriver.Chrome, other_origin: str
) -> None:
    port = free_port()
    browser.get(f"{other_origin}/index.html?api=http://127.0.0.1:{port}")
    wait_for(browser, "#problem", f"The service at http://127.0.0.1:{port} is away")
    with Service(port=port):
        wait_for(browser, "#species", "virginica")
        wait_for_plot(browser)
        WebDriverWait(browser, 10).until(lambda _: text(browser, "#problem") == "")


def test_a_click_replaces_what_was_typed(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    number = browser.find_element(By.CSS_SELECTOR, "#petalLengthCm + input")
    number.send_keys(Keys.BACKSPACE * 3, "3.3")
    wait_for(browser, "#curl", '"petalLengthCm": 3.3')
    frame = browser.find_element(By.ID, "frame")
    ActionChains(browser).move_to_element_with_offset(frame, -200, 150).click().perform()
    wait_for(browser, "#species", "setosa")
    assert number.get_property("value") in text(browser, "#curl")
    assert number.get_property("value") != "3.3"


def test_a_drag_goes_on_beyond_the_plot(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    frame = browser.find_element(By.ID, "frame")
    drag = ActionChains(browser).move_to_element(frame).click_and_hold()
    drag.move_to_element(browser.find_element(By.ID, "lengths")).release().perform()
    wait_for(browser, "#curl", '"petalLengthCm": 7.5')


def test_a_finger_scrolls_the_page(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    plot = browser.find_element(By.CSS_SELECTOR, "#plot > svg")
    assert plot.value_of_css_property("touch-action") == "pan-y"


PREFIXED = """
import os, run, waitress
from werkzeug.middleware.dispatcher import DispatcherMiddleware
app = DispatcherMiddleware(run.app, {"/iris": run.app})
waitress.serve(app, port=int(os.environ["PORT"]))
"""


def test_the_page_works_behind_a_prefix(browser: webdriver.Chrome) -> None:
    with Service(sys.executable, "-c", PREFIXED) as service:
        url = f"http://127.0.0.1:{service.port}/iris"
        open_page(browser, f"{url}/static")
        assert f"'{url}/predict_proba'" in text(browser, "#curl")
