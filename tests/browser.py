"""Chromium, the demo page in it, and what a user does there."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.service import ROOT, Service, tool

STATIC = ROOT / "static"
INFO = json.loads((STATIC / "model-info.json").read_text("utf-8"))
RANKED = sorted(INFO["features"], key=lambda feature: -feature["importance"])
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --window-size=1280,1180"""
PHONE = (390, 844)


def chromium(folder: Path | str) -> webdriver.Chrome:
    """Start a headless Chromium with its data in an empty folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = tool("chromium")
    for flag in [*FLAGS.split(), f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(tool("chromedriver")))


@pytest.fixture(scope="session")
def started_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(started_browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The session's Chromium; what a test emulates is reset after it."""
    yield started_browser
    started_browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    started_browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    started_browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    started_browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    started_browser.get_log("browser")


class StaticFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *message: Any) -> None:
        pass


@pytest.fixture(scope="session")
def other_origin() -> Iterator[str]:
    """The origin of a server that has the demo page, but not the service."""
    handler = functools.partial(StaticFiles, directory=STATIC)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# ---- Opening the page ------------------------------------------------------------------------


def page_url(service: Service, query: str = "") -> str:
    return f"http://127.0.0.1:{service.port}/static/index.html{query}"


def open_page(browser: webdriver.Chrome, url: str) -> None:
    """Open the page and wait until it shows the prediction, all strips, regions and points."""
    browser.get(url)
    wait_for(browser, "#response", "return")
    script = """
        const count = (selector) => document.querySelectorAll(selector).length;
        const [regions, points] = [count("#regions rect"), count("#points use")];
        const strips = count(".strip[style]");
        const isPlotted = document.querySelector(".view").hidden || (regions > 0 && points > 0);
        return strips > 0 && isPlotted;
    """
    WebDriverWait(browser, 10).until(
        lambda _: browser.execute_script(script), "the page is incomplete"
    )


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def enable_touch(browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})


# ---- Reading the page ------------------------------------------------------------------------


def text(browser: webdriver.Chrome, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def wait_for(browser: webdriver.Chrome, selector: str, expected: str) -> None:
    """Wait until an element that matches the selector contains the expected text."""
    WebDriverWait(browser, 10).until(
        lambda _: any(
            expected in element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)
        ),
        f"{selector} does not contain {expected!r}",
    )


def shown_sample(browser: webdriver.Chrome) -> dict[str, Any]:
    """Return the sample in the curl command."""
    command = text(browser, "#curl")
    return json.loads(command[command.index("{") : command.rindex("}") + 1])


def slider(browser: webdriver.Chrome, name: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f"[data-name='{name}'] input[type=range]")


def number_field(browser: webdriver.Chrome, name: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f"[data-name='{name}'] input[inputmode]")


def hint(browser: webdriver.Chrome, name: str) -> str:
    return text(browser, f"[data-name='{name}'] small")


def regions(browser: webdriver.Chrome) -> str:
    return browser.execute_script("return document.getElementById('regions').innerHTML")


def wait_for_change(browser: webdriver.Chrome, before: str) -> None:
    """Wait until the regions differ from `before`."""
    WebDriverWait(browser, 10).until(lambda _: regions(browser) != before)


# ---- Acting on the page ----------------------------------------------------------------------


def replace(number: WebElement, typed: str) -> None:
    number.send_keys(Keys.CONTROL + "a", Keys.NULL, Keys.DELETE, typed)


def shown_axes(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Return the features on the horizontal and on the vertical axis."""
    selects = browser.find_elements(By.CSS_SELECTOR, "figcaption select")
    return [INFO["features"][int(select.get_property("value"))] for select in selects]


def place_in_plot(browser: webdriver.Chrome, *values: float) -> tuple[int, int]:
    """Return where two values of the axes' features are in the window, in pixels."""
    script = "return document.getElementById('frame').getBoundingClientRect().toJSON()"
    frame = browser.execute_script(script)
    across, up = [
        (value - feature["minimum"]) / (feature["maximum"] - feature["minimum"])
        for value, feature in zip(values, shown_axes(browser), strict=True)
    ]
    return (
        round(frame["left"] + across * frame["width"]),
        round(frame["bottom"] - up * frame["height"]),
    )


def place_of_point(browser: webdriver.Chrome, row: dict[str, Any]) -> tuple[int, int]:
    """Return where a row of the training data is in the window, in pixels."""
    return place_in_plot(browser, *(row[feature["name"]] for feature in shown_axes(browser)))


def move_mouse(mouse: ActionChains, x: int, y: int) -> None:
    mouse.w3c_actions.pointer_action.move_to_location(x, y)


def click(browser: webdriver.Chrome, x: int, y: int) -> None:
    mouse = ActionChains(browser)
    move_mouse(mouse, x, y)
    mouse.click().perform()


def tap(browser: webdriver.Chrome, x: int, y: int) -> None:
    swipe(browser, x, y, steps=1)


def swipe(
    browser: webdriver.Chrome, x: int, y: int, right: int = 0, down: int = 0, steps: int = 20
) -> None:
    for step in range(steps + 1):
        kind = "touchMove" if step else "touchStart"
        points = [{"x": x + right * step / steps, "y": y + down * step / steps}]
        event = {"type": kind, "touchPoints": points}
        if step == steps:
            event = {"type": "touchEnd", "touchPoints": []}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)
