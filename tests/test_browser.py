"""The pages in a real Chromium."""

import functools
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

import model
from tests.service import FLOWER, ROOT, Service, free_port, tool

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


@pytest.fixture(autouse=True)
def as_it_was(browser: webdriver.Chrome) -> Iterator[None]:
    """Leave the browser to the next test as it was before this one."""
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


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


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


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


REGIONS = "return document.getElementById('regions').innerHTML"


def test_a_sepal_slider_repaints_the_regions(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    before = browser.execute_script(REGIONS)
    browser.find_element(By.ID, "sepalWidthCm").send_keys(Keys.HOME)
    WebDriverWait(browser, 10).until(lambda _: browser.execute_script(REGIONS) != before)


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


@pytest.mark.parametrize(
    ("path", "expected", "pointers"),
    [("/predict", 422, [f"/{name}" for name in FLOWER]), ("/predict/", 404, [])],
)
def test_an_error_is_readable_from_another_origin(
    browser: webdriver.Chrome,
    other_origin: str,
    service: Service,
    path: str,
    expected: int,
    pointers: list[str],
) -> None:
    browser.get(f"{other_origin}/openapi.json")
    status, problem = browser.execute_async_script(
        """
        const [url, done] = arguments;
        const headers = { "Content-Type": "application/json" };
        fetch(url, { method: "POST", headers, body: "{}" }).then(async (response) =>
          done([response.status, await response.json()]));
        """,
        f"http://127.0.0.1:{service.port}{path}",
    )
    assert status == problem["status"] == expected
    assert [error["pointer"] for error in problem.get("errors", [])] == pointers


def replace(number: WebElement, typed: str) -> None:
    number.send_keys(Keys.CONTROL + "a", Keys.NULL, Keys.DELETE, typed)


PETAL_WIDTH = "input[aria-describedby=petalWidth]"
MARKER = "return document.getElementById('here').getBoundingClientRect().toJSON()"


@pytest.mark.parametrize("typed", ["", "wide", "9", "-1", ".."])
def test_a_wrong_number_is_said_beside_its_field(
    browser: webdriver.Chrome, service: Service, typed: str
) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    before = [browser.execute_script(MARKER), text(browser, "#curl"), text(browser, "#answer")]
    number = browser.find_element(By.CSS_SELECTOR, PETAL_WIDTH)
    replace(number, typed)
    assert text(browser, "#petalWidth") == "needs a number from 0 to 3"
    assert number.get_attribute("aria-invalid") == "true"
    now = [browser.execute_script(MARKER), text(browser, "#curl"), text(browser, "#answer")]
    assert now == before
    assert text(browser, "#problem") == ""
    replace(number, "0,2")  # with a comma, as half the world writes it
    wait_for(browser, "#curl", '"petalWidthCm": 0.2')
    assert text(browser, "#petalWidth") == "0 to 3"


def test_the_page_says_what_the_service_refuses(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    browser.execute_script("petalWidthCm.max = 200")  # more than the service takes
    number = browser.find_element(By.CSS_SELECTOR, PETAL_WIDTH)
    replace(number, "101")
    wait_for(browser, "#problem", "422 Unprocessable Entity")
    assert "/petalWidthCm expected a number from 0 to 100, in cm, got 101" in text(
        browser, "#problem"
    )
    assert text(browser, "#species") == "?"
    replace(number, "1.8")
    wait_for(browser, "#species", "virginica")
    assert text(browser, "#problem") == ""


def test_the_page_says_no_more_than_it_knows(
    browser: webdriver.Chrome, other_origin: str, service: Service
) -> None:
    browser.get(f"{other_origin}/index.html?api={other_origin}/index.html%3f")
    wait_for(browser, "#problem", "but not in JSON.")
    open_page(browser, other_origin, f"?api=127.0.0.1:{service.port}")  # without http://


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
    number = browser.find_element(By.CSS_SELECTOR, "input[aria-describedby=petalLength]")
    replace(number, "3.3")
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


def swipe(browser: webdriver.Chrome, x: int, y: int, right: int = 0, down: int = 0) -> None:
    for step in range(21):
        moved = [{"x": x + right * step / 20, "y": y + down * step / 20}] if step < 20 else []
        kind = "touchMove" if step else "touchStart"
        event = {"type": kind if moved else "touchEnd", "touchPoints": moved}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)


def test_a_finger_scrolls_the_page_and_places_the_flower(
    browser: webdriver.Chrome, service: Service
) -> None:
    resize(browser, 844, 390)  # a phone held sideways
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    swipe(browser, 300, 350, right=600)
    wait_for(browser, "#curl", '"petalLengthCm": 7.5')
    assert browser.execute_script("return scrollY") == 0
    swipe(browser, 300, 350, down=-300)
    WebDriverWait(browser, 10).until(lambda _: browser.execute_script("return scrollY > 100"))


@pytest.mark.parametrize("percent", [100, 150, 200])
@pytest.mark.parametrize("width", [320, 390, 600, 865, 960, 1024, 1280, 1920])
def test_it_fits(browser: webdriver.Chrome, service: Service, width: int, percent: int) -> None:
    resize(browser, width, 900)
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    browser.execute_script(f"document.documentElement.style.fontSize = '{percent}%'")
    sliders, outside, scrolls = browser.execute_script("""
        const all = (selector) => [...document.querySelectorAll(selector)];
        const sliders = all("input[type=range]").map((slider) => slider.clientWidth);
        const outside = all("section *:not(pre, svg *)").filter((element) =>
          element.getBoundingClientRect().right >
            element.closest("section").getBoundingClientRect().right);
        const root = document.documentElement;
        const scrolls = all("pre").filter((box) => box.scrollHeight > box.clientHeight)
          .concat(root.scrollWidth > root.clientWidth ? root : []);
        return [sliders, ...[outside, scrolls].map((found) => found.map((e) => e.outerHTML))];
    """)
    assert min(sliders) >= 120
    assert outside == []
    assert scrolls == []


RECTANGLES = """
    const number = (element, name) => +element.getAttribute(name);
    return [...document.querySelectorAll("#regions rect")].map((rectangle) =>
      [rectangle.getAttribute("class"), ...["x", "y", "width", "height"].map((name) =>
        number(rectangle, name))]);
"""


def test_the_regions_are_the_models(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    for length, width in [(5.9, 3), (6.1, 3), (4.5, 2.3), (7.7, 3.05), (6.5, 2.8)]:
        before = browser.execute_script(REGIONS)
        for name, value in (("sepalLengthCm", length), ("sepalWidthCm", width)):
            number = browser.find_element(By.CSS_SELECTOR, f"input[aria-describedby={name[:-2]}]")
            replace(number, str(value))
        if length != 5.9:
            WebDriverWait(browser, 10).until(lambda _: browser.execute_script(REGIONS) != before)  # noqa: B023
        rectangles = browser.execute_script(RECTANGLES)
        assert len(rectangles) == 10 * 4
        grid = [(x / 20 + 0.525, y / 20 + 0.025) for x in range(139) for y in range(59)]
        flowers = [[length, width, *petal] for petal in grid]
        species = [model.SPECIES[index] for index in model.classes(np.array(flowers, np.float32))]
        for (petal_length, petal_width), expected in zip(grid, species, strict=True):
            x, y = 80 + (petal_length - 0.5) * 704 / 7, 504 - petal_width * 164
            (shown,) = [
                name
                for name, left, top, width_, height in rectangles
                if left <= x < left + width_ and top < y <= top + height
            ]
            assert shown == expected, (length, width, petal_length, petal_width)


def test_a_sepal_step_asks_for_little_and_once(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    before = browser.execute_script(REGIONS)
    browser.execute_script("""
        const real = window.fetch;
        window.sent = [];
        window.fetch = (url, options) => {
          window.sent.push((options?.body ?? "").length);
          return real(url, options);
        };
    """)
    slider = browser.find_element(By.ID, "sepalWidthCm")
    slider.send_keys(Keys.HOME)
    WebDriverWait(browser, 10).until(lambda _: browser.execute_script(REGIONS) != before)
    slider.send_keys(Keys.ARROW_RIGHT)  # within the same cell
    wait_for(browser, "#curl", '"sepalWidthCm": 2.1')
    wait_for(browser, "#answer", "setosa")
    one, *others = sorted(browser.execute_script("return window.sent"), reverse=True)
    assert 1_000 < one < 4_000
    assert len(others) == 2 and max(others) < 100


@pytest.mark.parametrize("state", ["light", "dark", "phone", "wrong number", "away"])
def test_axe_finds_nothing(
    browser: webdriver.Chrome, other_origin: str, service: Service, state: str
) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if state == "dark" else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    if state == "phone":
        resize(browser, 390, 844)
    if state == "away":
        browser.get(f"{other_origin}/index.html?api=http://127.0.0.1:{free_port()}")
        wait_for(browser, "#problem", "is away")
    else:
        open_page(browser, f"http://127.0.0.1:{service.port}/static")
    if state == "wrong number":
        browser.find_element(By.CSS_SELECTOR, PETAL_WIDTH).send_keys("x")
    browser.execute_script(Path(tool("axe-core/axe.min.js")).read_text("utf-8"))
    found = browser.execute_async_script("""
        const done = arguments[0];
        axe.run().then(({ violations }) => done(violations.flatMap(({ id, nodes }) =>
          nodes.map(({ html }) => `${id}: ${html}`))));
    """)
    assert found == []


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
