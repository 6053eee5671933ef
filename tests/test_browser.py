"""The demo page in Chromium, with the model that is served and with made-up models."""

import functools
import http.server
import json
import shlex
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import (
    INFO,
    PHONE,
    RANKED,
    STATIC,
    StaticFiles,
    click,
    enable_touch,
    hint,
    number_field,
    open_page,
    page_url,
    place_in_plot,
    regions,
    replace,
    resize,
    shown_axes,
    shown_sample,
    slider,
    swipe,
    text,
    wait_for,
    wait_for_change,
)
from tests.service import Service, free_port, run_tool, tool

pytestmark = pytest.mark.slow

NAMES = [feature["name"] for feature in INFO["features"]]
FIRST = RANKED[0]


def test_health_check_shows_hello(browser: webdriver.Chrome, service: Service) -> None:
    browser.get(f"http://127.0.0.1:{service.port}/")
    assert text(browser, "body") == "hello!!"


# ---- The page and its service ----------------------------------------------------------------


def test_page_shows_the_example_without_console_messages(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, page_url(service))
    assert browser.title == text(browser, "h1") == INFO["title"]
    assert INFO["description"] in text(browser, "header")
    assert shown_sample(browser) == INFO["example"]
    assert f"curl 'http://127.0.0.1:{service.port}/predict'" in text(browser, "#curl")
    response = service.request("POST", "/predict", json.dumps(INFO["example"]))[2]
    assert text(browser, "#response") == response.decode()
    assert text(browser, "#class") == INFO["classes"][int(json.loads(response)["return"])]
    assert browser.get_log("browser") == []


def test_page_names_the_classes_and_links_to_the_api(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, page_url(service))
    labels = [
        name if name == str(index) else f"{index} {name}"
        for index, name in enumerate(INFO["classes"])
    ]
    assert f"POST /predict returns the class label: {', '.join(labels)}." in text(browser, "#api")
    links = [link.get_attribute("href") or "" for link in browser.find_elements(By.TAG_NAME, "a")]
    paths = [link.removeprefix(f"http://127.0.0.1:{service.port}") for link in links]
    assert paths == ["/static/openapi.json", "/static/postman_collection.json"]
    for path in paths:
        assert service.request("GET", path)[0] == 200


def test_sliders_are_ordered_by_importance(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    rows = browser.find_elements(By.CLASS_NAME, "feature")
    assert [row.get_attribute("data-name") for row in rows] == [
        feature["name"] for feature in RANKED
    ]
    expected = f"{FIRST['label']} {FIRST['minimum']} to {FIRST['maximum']} {FIRST['unit']}"
    assert rows[0].text.split() == expected.split()


def test_fetch_snippet_runs_unchanged(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    script = """
        const [snippet, done] = arguments;
        const body = `const console = { log: done }; ${snippet}`;
        new (async () => {}).constructor("done", body)(done).catch((error) => done(error.message));
    """
    snippet = text(browser, "#fetch")
    assert browser.execute_async_script(script, snippet) == json.loads(text(browser, "#response"))
    value = f'"{FIRST["name"]}": {json.dumps(INFO["example"][FIRST["name"]])}'
    assert value in snippet
    rejected = snippet.replace(value, f'"{FIRST["name"]}": 1e30')
    message = browser.execute_async_script(script, rejected)
    assert f"/{FIRST['name']}" in message and "got 1e" in message


def test_page_without_javascript_says_so(browser: webdriver.Chrome, service: Service) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(page_url(service))
    assert "This page needs JavaScript" in text(browser, "header")


def test_page_works_from_another_origin(browser: webdriver.Chrome, other_origin: str) -> None:
    with Service(GUNICORN_CMD_ARGS="--access-logfile -") as service:
        open_page(browser, f"{other_origin}/index.html?api=http://127.0.0.1:{service.port}/")
        assert browser.get_log("browser") == []
        assert '"OPTIONS /predict_proba HTTP/1.1" 200' in service.logged()


def test_page_works_as_a_file(browser: webdriver.Chrome, service: Service) -> None:
    page = (STATIC / "index.html").as_uri()
    open_page(browser, f"{page}?api=127.0.0.1:{service.port}")  # http:// may be left out


PREFIXED = """
import os, run, waitress
from werkzeug.middleware.dispatcher import DispatcherMiddleware
app = DispatcherMiddleware(run.app, {"/prefix": run.app})
waitress.serve(app, port=int(os.environ["PORT"]))
"""


def test_page_works_behind_a_prefix(browser: webdriver.Chrome) -> None:
    with Service(sys.executable, "-c", PREFIXED) as service:
        url = f"http://127.0.0.1:{service.port}/prefix"
        open_page(browser, f"{url}/static/index.html")
        assert f"'{url}/predict'" in text(browser, "#curl")


@pytest.mark.parametrize(
    ("path", "expected", "pointers"),
    [
        pytest.param("/predict", 422, [f"/{name}" for name in NAMES], id="422"),
        pytest.param("/predict/", 404, [], id="404"),
    ],
)
def test_error_is_readable_from_another_origin(
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


def test_status_and_allow_are_readable_from_another_origin(
    browser: webdriver.Chrome, other_origin: str, service: Service
) -> None:
    browser.get(f"{other_origin}/openapi.json")
    status, allowed = browser.execute_async_script(
        """
        const [url, done] = arguments;
        fetch(url).then(
          (response) => done([response.status, response.headers.get("Allow") ?? ""]),
          (error) => done([error.message, ""]));
        """,
        f"http://127.0.0.1:{service.port}/predict",
    )
    assert status == 405
    assert set(allowed.split(", ")) == {"POST", "OPTIONS"}


def test_response_that_is_not_json_is_reported(
    browser: webdriver.Chrome, other_origin: str
) -> None:
    browser.get(f"{other_origin}/index.html?api={other_origin}/index.html%3f")
    wait_for(browser, "#problem", "responded with status 200, but the response is not JSON.")


def test_page_recovers_when_the_service_is_back(
    browser: webdriver.Chrome, other_origin: str
) -> None:
    port = free_port()
    url = f"{other_origin}/index.html?api=http://127.0.0.1:{port}"
    unreachable = (
        f"The service at http://127.0.0.1:{port} is unreachable, "
        "or does not allow requests from this page."
    )
    browser.get(url)
    wait_for(browser, "#problem", unreachable)
    with Service(port=port):
        wait_for(browser, "#response", "return")
    slider(browser, FIRST["name"]).send_keys(Keys.HOME)
    wait_for(browser, "#problem", unreachable)
    assert text(browser, "#class") == "?"
    with Service(port=port):
        wait_for(browser, "#response", "return")
        WebDriverWait(browser, 10).until(lambda _: text(browser, "#problem") == "")


def test_rejected_sample_is_reported(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    browser.execute_script(
        """
        const value = new RegExp(`"${arguments[0]}":[^,}]*`, "g"), real = window.fetch;
        window.fetch = (url, { body, ...options }) =>
          real(url, { ...options, body: body.replace(value, `"${arguments[0]}":1e30`) });
        window.restore = () => (window.fetch = real);
        """,
        FIRST["name"],
    )
    slider(browser, FIRST["name"]).send_keys(Keys.HOME)
    wait_for(browser, "#problem", "422 Unprocessable")
    assert f"/{FIRST['name']} expected a" in text(browser, "#problem")
    assert text(browser, "#class") == "?"
    browser.execute_script("restore()")
    slider(browser, FIRST["name"]).send_keys(Keys.END)
    wait_for(browser, "#response", "return")
    WebDriverWait(browser, 10).until(lambda _: text(browser, "#problem") == "")


def test_rapid_changes_send_few_requests(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    name = RANKED[-1]["name"]
    parallel, requests = browser.execute_async_script(
        """
        const [slider, done] = arguments, real = window.fetch;
        let inFlight = 0, parallel = 0, requests = 0;
        window.fetch = async (...request) => {
          parallel = Math.max(parallel, ++inFlight);
          requests += 1;
          try { return await real(...request); } finally { inFlight -= 1; }
        };
        for (let share = 0.01; share < 1.005; share += 0.01) {
          slider.value = +slider.min + share * (slider.max - slider.min);
          slider.dispatchEvent(new Event("input", { bubbles: true }));
        }
        setTimeout(() => { window.fetch = real; done([parallel, requests]); }, 1500);
        """,
        slider(browser, name),
    )
    assert parallel <= 4  # two for the sample, one for the strips and one for the regions
    assert requests <= 10
    assert shown_sample(browser)[name] == RANKED[-1]["maximum"]


# ---- The sample ------------------------------------------------------------------------------


def strip_classes(browser: webdriver.Chrome, name: str) -> list[tuple[float, str]]:
    """Return where the strip of a feature changes its class, and the classes."""
    strip = browser.find_element(By.CSS_SELECTOR, f"[data-name='{name}'] .strip")
    description = (strip.get_attribute("aria-label") or "").partition(": ")[2]
    changes = [change.rpartition(" from ") for change in description.split(", ")]
    return [(float(start), predicted) for predicted, _, start in changes]


def test_strips_show_the_models_predictions(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    for feature in RANKED[:6]:
        low, high = feature["minimum"], feature["maximum"]
        values = [low + (high - low) * (step + 0.5) / 200 for step in range(200)]
        if feature["integer"]:
            values = [round(value) for value in values]
        samples = [{**INFO["example"], feature["name"]: value} for value in values]
        response = service.request("POST", "/predict", json.dumps(samples))[2]
        expected = [INFO["classes"][int(label)] for label in json.loads(response)["return"]]
        changes = strip_classes(browser, feature["name"])
        shown = [[name for start, name in changes if start <= value][-1] for value in values]
        assert shown == expected, feature["name"]


@pytest.mark.parametrize("typed", ["", "wide", "1e30", "-1e30", ".."])
def test_invalid_number_is_marked_and_not_sent(
    browser: webdriver.Chrome, service: Service, typed: str
) -> None:
    open_page(browser, page_url(service))
    name, low, high = FIRST["name"], FIRST["minimum"], FIRST["maximum"]
    before = [text(browser, "#curl"), text(browser, "#response")]
    opacity = "return getComputedStyle(document.querySelector(arguments[0])).opacity"
    number = number_field(browser, name)
    browser.execute_script(
        """
        const [number, typed] = arguments;
        number.value = typed;
        number.dispatchEvent(new Event("input", { bubbles: true }));
        """,
        number,
        typed,
    )
    assert f"number from {low} to {high}" in hint(browser, name)
    assert number.get_attribute("aria-invalid") == "true"
    assert [text(browser, "#curl"), text(browser, "#response")] == before
    for shown in ("#class", "#probabilities", "#response"):
        assert browser.execute_script(opacity, shown) == "0.66"
    assert text(browser, "#problem") == ""
    replace(number, str(low))
    assert hint(browser, name).startswith(f"{low} to {high}")
    wait_for(browser, "#response", "return")
    assert shown_sample(browser)[name] == low
    for shown in ("#class", "#probabilities", "#response"):
        assert browser.execute_script(opacity, shown) == "1"


def test_slider_off_the_axes_repaints_the_regions(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, page_url(service))
    before = regions(browser)
    other = next(feature for feature in RANKED if feature not in shown_axes(browser))
    slider(browser, other["name"]).send_keys(Keys.HOME)
    wait_for_change(browser, before)


def test_click_replaces_a_typed_number(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    x, y = shown_axes(browser)
    number = number_field(browser, x["name"])
    replace(number, str(x["minimum"]))
    wait_for(browser, "#response", "return")
    click(browser, *place_in_plot(browser, x["maximum"], y["maximum"]))
    sample = shown_sample(browser)
    assert number.get_property("value") == f"{sample[x['name']]:g}"
    assert sample[x["name"]] > x["minimum"]


def test_drag_continues_outside_the_plot(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    frame, form = browser.find_element(By.ID, "frame"), browser.find_element(By.TAG_NAME, "form")
    drag = ActionChains(browser).move_to_element(frame).click_and_hold()
    drag.move_to_element(form).release().perform()
    x, _ = shown_axes(browser)
    assert shown_sample(browser)[x["name"]] == x["maximum"]


def test_finger_scrolls_the_page_and_drags_in_the_plot(
    browser: webdriver.Chrome, service: Service
) -> None:
    resize(browser, 844, 390)  # a phone held sideways
    enable_touch(browser)
    open_page(browser, page_url(service))
    browser.execute_script("scrollTo(0, document.querySelector('.explore').offsetTop)")
    scrolled = browser.execute_script("return scrollY")
    x, _ = shown_axes(browser)
    swipe(browser, 200, 150, right=600)
    WebDriverWait(browser, 10).until(lambda _: shown_sample(browser)[x["name"]] == x["maximum"])
    assert browser.execute_script("return scrollY") == scrolled
    swipe(browser, 200, 300, down=-200)
    WebDriverWait(browser, 10).until(
        lambda _: browser.execute_script("return scrollY") > scrolled + 100
    )


def test_url_contains_the_sample_once_it_is_placed(
    browser: webdriver.Chrome, other_origin: str, service: Service
) -> None:
    open_page(browser, f"{other_origin}/index.html?api=127.0.0.1:{service.port}")
    browser.execute_script("""
        const real = history.replaceState;
        window.written = 0;
        history.replaceState = (...state) => { written += 1; real.apply(history, state); };
    """)
    x, y = shown_axes(browser)
    drag = ActionChains(browser)
    for share in (0.2, 0.5, 0.8):
        values = [axis["minimum"] + share * (axis["maximum"] - axis["minimum"]) for axis in (x, y)]
        drag.w3c_actions.pointer_action.move_to_location(*place_in_plot(browser, *values))
        if share == 0.2:
            drag.click_and_hold()
    drag.perform()
    assert browser.execute_script("return written") == 0
    ActionChains(browser).release().perform()
    assert browser.execute_script("return written") == 1
    number = number_field(browser, x["name"])
    replace(number, str(x["minimum"]))
    assert browser.execute_script("return written") == 1
    number.send_keys(Keys.TAB)
    assert browser.execute_script("return written") == 2
    sample = shown_sample(browser)
    assert sample[x["name"]] == x["minimum"]
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(browser.current_url).query)
    assert query.pop("api") == [f"127.0.0.1:{service.port}"]
    assert {name: float(value) for name, (value,) in query.items()} == sample
    browser.refresh()
    wait_for(browser, "#response", "return")
    assert shown_sample(browser) == sample


# ---- Models of other kinds -------------------------------------------------------------------


def feature(name: str, importance: float, **changes: Any) -> dict[str, Any]:
    """Return a made-up feature from -1 to 1, with one threshold at 0."""
    return {
        "name": name,
        "label": name,
        "unit": "",
        "minimum": -1,
        "maximum": 1,
        "step": 0.01,
        "integer": False,
        "optional": False,
        "distinct": 100,
        "importance": importance,
        "thresholds": [0],
        **changes,
    }


def made_up_info(features: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "title": "Made up",
        "description": "Not a real model.",
        "sample": "row",
        "class": "kind",
        "features": features,
        "classes": ["no", "yes"],
        "example": {feature["name"]: feature["minimum"] for feature in features},
        "samples": None,
        "data": None,
        "mistake": None,
        **changes,
    }


class MadeUpService(StaticFiles):
    """A service whose prediction is how many thresholds of the first feature are reached."""

    def __init__(self, *args: Any, info: dict[str, Any], **options: Any) -> None:
        self.info = info
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        if self.path == "/static/model-info.json":
            self.respond(self.info)
        else:
            self.path = self.path.removeprefix("/static")
            super().do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert len(body) <= 2 * 2**20
        samples = json.loads(body)
        predict = self.predict_label if self.path == "/predict" else self.predict_proba
        many = isinstance(samples, list)
        self.respond({"return": list(map(predict, samples)) if many else predict(samples)})

    def predict_label(self, sample: dict[str, Any]) -> str:
        first = self.info["features"][0]
        value = sample[first["name"]]
        reached = [] if value is None else [at for at in first["thresholds"] if at <= value]
        return str(len(reached) % len(self.info["classes"]))

    def predict_proba(self, sample: dict[str, Any]) -> dict[str, float]:
        label = int(self.predict_label(sample))
        return {name: float(index == label) for index, name in enumerate(self.info["classes"])}

    def respond(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def made_up_service(info: dict[str, Any]) -> Iterator[str]:
    """Serve the page with a made-up model, and return the URL of the page."""
    handler = functools.partial(MadeUpService, info=info, directory=STATIC)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/static/index.html"
        server.shutdown()


def open_made_up(browser: webdriver.Chrome, url: str) -> None:
    browser.get(url)
    wait_for(browser, "#response", "return")


def is_shown(browser: webdriver.Chrome, selector: str) -> bool:
    return browser.find_element(By.CSS_SELECTOR, selector).is_displayed()


def test_unknown_value_is_sent_as_null(browser: webdriver.Chrome) -> None:
    info = made_up_info([feature("a", 0.9, optional=True), feature("b", 0.1)])
    with made_up_service(info) as url:
        open_made_up(browser, f"{url}?a=1")
        assert text(browser, "#class") == "yes"
        browser.find_element(By.CSS_SELECTOR, "[data-name=a] [type=checkbox]").click()
        wait_for(browser, "#class", "no")
        assert shown_sample(browser) == {"a": None, "b": -1}
        assert not slider(browser, "a").is_enabled()
        assert not is_shown(browser, "#here")
        assert urllib.parse.urlsplit(browser.current_url).query == "a=unknown&b=-1"
        browser.refresh()
        wait_for(browser, "#response", "return")
        assert shown_sample(browser) == {"a": None, "b": -1}
        browser.find_element(By.CSS_SELECTOR, "[data-name=a] [type=checkbox]").click()
        wait_for(browser, "#response", "return")
        assert isinstance(shown_sample(browser)["a"], int | float)
        assert len(browser.find_elements(By.CSS_SELECTOR, "[type=checkbox]")) == 1


def test_whole_number_is_required_for_an_integer(browser: webdriver.Chrome) -> None:
    changes = {"minimum": 0, "maximum": 9, "step": 1, "integer": True, "thresholds": [2.5]}
    with made_up_service(made_up_info([feature("a", 1, **changes), feature("b", 0)])) as url:
        open_made_up(browser, f"{url}?a=3.4")
        assert shown_sample(browser)["a"] == 3
        assert strip_classes(browser, "a") == [(0, "no"), (3, "yes")]
        replace(number_field(browser, "a"), "1.5")
        assert hint(browser, "a") == "enter a whole number from 0 to 9"
        assert shown_sample(browser)["a"] == 1  # typed before ".5"


MARKUP = "<img src=x onerror=document.title='markup'>"


def test_names_are_inserted_as_text(browser: webdriver.Chrome) -> None:
    names = [f"it's {MARKUP}", f'"{MARKUP}', "plot"]
    features = [feature(name, 0.5, unit=MARKUP, optional=True) for name in names]
    info = made_up_info(
        features, title=MARKUP, description=MARKUP, sample=MARKUP, classes=[MARKUP, "<b>yes"]
    )
    info["class"] = MARKUP
    info["mistake"] = {
        "class": MARKUP,
        "predicted": MARKUP,
        "probability": 0.9,
        "sample": info["example"],
    }
    with made_up_service(info) as url:
        open_made_up(browser, url)
        assert browser.title == text(browser, "h1") == text(browser, "#class") == MARKUP
        assert browser.find_elements(By.CSS_SELECTOR, "img, b") == []
        assert [message["message"] for message in browser.get_log("browser")] == []
        for row, name in zip(browser.find_elements(By.CLASS_NAME, "feature"), names, strict=True):
            assert row.text.startswith(name)
        # The shell hands over each name as it is.
        command = shlex.split(text(browser, "#curl").replace("\\\n", ""))
        assert json.loads(command[-1]) == info["example"]
        done = subprocess.run([tool("curl"), "-s", *command[1:]], capture_output=True, check=True)
        assert json.loads(done.stdout) == {"return": "0"}


def test_feature_named_api_keeps_the_service_url(
    browser: webdriver.Chrome, other_origin: str
) -> None:
    with made_up_service(made_up_info([feature("api", 0.5), feature("_api", 0.5)])) as url:
        open_made_up(browser, f"{url}?_api=1&__api=0.5")
        assert shown_sample(browser) == {"api": 1, "_api": 0.5}
        slider(browser, "api").send_keys(Keys.HOME)
        wait_for(browser, "#response", "return")
        assert urllib.parse.urlsplit(browser.current_url).query == "_api=-1&__api=0.5"


def test_private_data_leaves_out_the_points_and_the_mistake(browser: webdriver.Chrome) -> None:
    thresholds = [-0.5, 0, 0.5]
    features = [
        feature(name, 0.3, distinct=None, thresholds=thresholds[:count])
        for name, count in (("a", 3), ("b", 3), ("few thresholds", 2), ("unused", 0))
    ]
    with made_up_service(made_up_info(features)) as url:
        open_made_up(browser, url)
        WebDriverWait(browser, 10).until(lambda _: "rect" in regions(browser))
        assert browser.find_elements(By.CSS_SELECTOR, "#points use") == []
        assert "points" not in text(browser, "header")
        assert "mistake" not in text(browser, "header")
        options = Select(browser.find_element(By.CSS_SELECTOR, "figcaption select")).options
        assert [option.text for option in options] == ["a", "b"]
        assert browser.get_log("browser") == []


def test_plot_shows_the_chosen_axes(browser: webdriver.Chrome) -> None:
    features = [
        feature("a", 0.2),
        feature("b", 0.5, unit="cm"),
        feature("c", 0.1),
        feature("two values", 0.2, distinct=2),
    ]
    with made_up_service(made_up_info(features)) as url:
        open_made_up(browser, url)
        selects = [Select(e) for e in browser.find_elements(By.CSS_SELECTOR, "figcaption select")]
        across, up = selects
        assert [option.text for option in across.options] == ["b (cm)", "a", "c"]
        assert [select.first_selected_option.text for select in selects] == ["b (cm)", "a"]
        section = browser.find_element(By.CLASS_NAME, "plot")
        assert section.accessible_name == "Plot of a against b"
        across.select_by_visible_text("a")
        assert [select.first_selected_option.text for select in selects] == ["a", "b (cm)"]
        up.select_by_visible_text("c")
        assert section.accessible_name == "Plot of c against a"
        click(
            browser,
            *browser.execute_script("""
            const { right, bottom } = document.getElementById("frame").getBoundingClientRect();
            return [Math.round(right), Math.round(bottom)];
        """),
        )
        wait_for(browser, "#class", "yes")
        assert shown_sample(browser) == {"a": 1, "b": -1, "c": -1, "two values": -1}


@pytest.mark.parametrize("classes", [2, 13])
@pytest.mark.parametrize("width", [390, 844, 1280])
def test_many_equal_features_have_no_plot_and_fill_the_page(
    browser: webdriver.Chrome, width: int, classes: int
) -> None:
    resize(browser, width, 900)
    features = [feature(f"pixel {number}", 1 / 64, distinct=17) for number in range(64)]
    info = made_up_info(features, classes=[f"digit {number}" for number in range(classes)])
    with made_up_service(info) as url:
        open_made_up(browser, url)
        assert not is_shown(browser, "#plot")
        boxes = browser.execute_script(BOXES, "main, #result, #sample")
        (left, _, right, _), result, sample = boxes
        assert result[0] == left and sample[2] == right
        between = sample[0] - result[2]
        assert 0 < between < 30 or (result[2], sample[0]) == (right, left)
        meters = browser.find_elements(By.CSS_SELECTOR, ".probability svg")
        marks = {meter.get_attribute("outerHTML") for meter in meters}
        assert len(marks) == classes


def test_features_after_the_sixth_are_in_the_details(browser: webdriver.Chrome) -> None:
    features = [feature(f"f{number}", 1 / (number + 1)) for number in range(8)]
    with made_up_service(made_up_info(features)) as url:
        open_made_up(browser, url)
        assert text(browser, "summary") == "2 more features"
        rows = browser.find_elements(By.CLASS_NAME, "feature")
        assert [row.is_displayed() for row in rows] == [True] * 6 + [False] * 2
        assert strip_classes(browser, "f0") == [(-1, "no"), (0, "yes")]
        browser.find_element(By.TAG_NAME, "summary").click()
        WebDriverWait(browser, 10, ignored_exceptions=[ValueError]).until(  # no text until painted
            lambda _: strip_classes(browser, "f7") == [(-1, "no")], "the strips are not painted"
        )
        assert all(row.is_displayed() for row in rows)
    with made_up_service(made_up_info(features[:6])) as url:
        open_made_up(browser, url)
        assert not is_shown(browser, "summary")


def test_requests_of_a_large_model_fit_the_body_limit(browser: webdriver.Chrome) -> None:
    thresholds = [number / 500 for number in range(-499, 500)]
    features = [
        feature(f"a feature with a rather long name {number}", 0.5, thresholds=thresholds)
        for number in range(64)
    ]
    info = made_up_info(features)
    info["example"] = {feature["name"]: -0.12345678901234567 for feature in features}
    with made_up_service(info) as url:  # which asserts that no body is longer than 2 MiB
        open_made_up(browser, url)
        WebDriverWait(browser, 20).until(lambda _: "rect" in regions(browser))
        browser.find_element(By.TAG_NAME, "summary").click()
        WebDriverWait(browser, 20).until(
            lambda _: len(browser.find_elements(By.CSS_SELECTOR, ".strip[style]")) == 64
        )
        assert text(browser, "#problem") == ""


# ---- How it looks ----------------------------------------------------------------------------

BOXES = """
    return [...document.querySelectorAll(arguments[0])].map((element) => {
      const { left, top, right, bottom } = element.getBoundingClientRect();
      return [left, top, right, bottom].map(Math.round);
    });
"""


@pytest.mark.parametrize("percent", [100, 200])
@pytest.mark.parametrize("width", [320, 600, 865, 1024, 1280, 1920])
def test_nothing_overflows(
    browser: webdriver.Chrome, service: Service, width: int, percent: int
) -> None:
    resize(browser, width, 900)
    open_page(browser, page_url(service))
    browser.execute_script(f"document.documentElement.style.fontSize = '{percent}%'")
    sliders, outside, scrolls = browser.execute_script("""
        const all = (selector) => [...document.querySelectorAll(selector)];
        const sliders = all("input[type=range]").map((slider) => slider.clientWidth)
          .filter((width) => width > 0);
        const outside = all("section *:not(pre, svg *)").filter((element) =>
          element.getBoundingClientRect().right >
            element.closest("section").getBoundingClientRect().right);
        const root = document.documentElement;
        const scrolls = root.scrollWidth > root.clientWidth ? [root] : [];
        return [sliders, ...[outside, scrolls].map((found) => found.map((e) => e.outerHTML))];
    """)
    assert min(sliders) >= 120
    assert outside == []
    assert scrolls == []


def accessibility_violations(browser: webdriver.Chrome) -> list[str]:
    browser.execute_script(Path(tool("axe-core/axe.min.js")).read_text("utf-8"))
    return browser.execute_async_script("""
        const done = arguments[0];
        axe.run().then(({ violations }) => done(violations.flatMap(({ id, nodes }) =>
          nodes.map(({ html }) => `${id}: ${html}`))));
    """)


@pytest.mark.parametrize("state", ["light", "dark", "phone", "invalid number", "unreachable"])
def test_axe_finds_no_violations(
    browser: webdriver.Chrome, other_origin: str, service: Service, state: str
) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if state == "dark" else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    if state == "phone":
        resize(browser, *PHONE)
    open_page(browser, page_url(service))
    if state == "invalid number":
        number_field(browser, FIRST["name"]).send_keys("x")
    if state == "unreachable":
        browser.get(f"{other_origin}/index.html?api=http://127.0.0.1:{free_port()}")
        wait_for(browser, "#problem", "is unreachable")
    assert accessibility_violations(browser) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violations_with_another_model(browser: webdriver.Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    info = made_up_info(
        [feature(f"f{number}", 1 / 8, optional=True) for number in range(8)],
        classes=[f"class {number}" for number in range(10)],
    )
    with made_up_service(info) as url:
        open_made_up(browser, f"{url}?f0=unknown")
        browser.find_element(By.TAG_NAME, "summary").click()
        assert accessibility_violations(browser) == []


def test_page_is_valid_html() -> None:
    run_tool("java", "-jar", tool("vnu-jar/build/dist/vnu.jar"), STATIC / "index.html")


def test_lighthouse_scores_are_perfect(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROME_PATH", tool("chromium"))
    flags = "--chrome-flags=--headless --no-sandbox --disable-gpu --no-first-run"
    report = json.loads(
        run_tool("lighthouse", page_url(service), "--output=json", "--quiet", flags)
    )
    scores = {name: category["score"] for name, category in report["categories"].items()}
    del scores["performance"]  # it depends on the machine, except for layout shifts
    assert scores == {"accessibility": 1, "best-practices": 1, "seo": 1}
    assert report["audits"]["cumulative-layout-shift"]["score"] >= 0.9
