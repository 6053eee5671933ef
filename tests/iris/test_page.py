"""The demo page with the iris model: literal predictions, and how four sliders fit screens."""

import json
import urllib.parse

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from tests.browser import (
    PHONE,
    STATIC,
    click,
    enable_touch,
    hint,
    move_mouse,
    number_field,
    open_page,
    page_url,
    place_in_plot,
    place_of_point,
    regions,
    replace,
    resize,
    shown_axes,
    shown_sample,
    slider,
    swipe,
    tap,
    text,
    wait_for,
    wait_for_change,
)
from tests.service import Service, node, tool

pytestmark = pytest.mark.slow

FLOWER = {"sepalLengthCm": 5.9, "sepalWidthCm": 3, "petalLengthCm": 5.1, "petalWidthCm": 1.8}
DATA = json.loads((STATIC / "training-data.json").read_text())
MISTAKE = 106  # the virginica among the versicolors


def percent(browser: webdriver.Chrome, name: str) -> str:
    return text(browser, f"[role=meter][aria-label={name}] .percent")


def test_page_shows_the_virginica_of_the_readme(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, page_url(service))
    assert browser.title == "Iris prediction service"
    assert shown_sample(browser) == FLOWER
    assert text(browser, "#class") == "virginica"
    assert percent(browser, "virginica") == "99.5%"
    assert text(browser, "#response") == '{"return":"2"}'
    assert hint(browser, "petalWidthCm").endswith(" cm")
    plot = browser.find_element(By.CLASS_NAME, "plot")
    assert plot.accessible_name == "Plot of petal width against petal length"
    points = browser.find_elements(By.CSS_SELECTOR, "#points use")
    assert len(points) == len(DATA) == 150
    assert "150 flowers" in text(browser, "header")


def test_click_and_keyboard_change_the_species(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    click(browser, *place_in_plot(browser, 2.5, 2))  # no point is there
    wait_for(browser, "#class", "setosa")
    assert shown_sample(browser) == {**FLOWER, "petalLengthCm": 2.5, "petalWidthCm": 2}
    slider(browser, "petalLengthCm").send_keys(Keys.END)
    wait_for(browser, "#class", "virginica")
    replace(number_field(browser, "petalLengthCm"), "2,5")  # the comma of many languages
    wait_for(browser, "#class", "setosa")
    assert shown_sample(browser)["petalLengthCm"] == 2.5


@pytest.mark.parametrize("pointer", ["mouse", "finger"])
def test_click_on_a_point_selects_its_flower(
    browser: webdriver.Chrome, service: Service, pointer: str
) -> None:
    if pointer == "finger":
        resize(browser, *PHONE)
        enable_touch(browser)
    open_page(browser, page_url(service))
    x, y = place_of_point(browser, DATA[MISTAKE])
    if pointer == "finger":
        tap(browser, x - 5, y - 9)
    else:
        click(browser, x - 3, y - 5)
    wait_for(browser, "#class", "versicolor")
    assert {**shown_sample(browser), "species": "virginica"} == DATA[MISTAKE]
    assert percent(browser, "versicolor") == "99.6%"


def test_most_confident_mistake_is_described_and_shown(
    browser: webdriver.Chrome, service: Service
) -> None:
    predictions = json.loads(service.request("POST", "/predict_proba", json.dumps(DATA))[2])
    ((flower, probabilities),) = [
        (flower, probabilities)
        for flower, probabilities in zip(DATA, predictions["return"], strict=True)
        if probabilities[flower["species"]] < 0.01
    ]
    assert flower == DATA[MISTAKE]
    assert f"{100 * probabilities['versicolor']:.1f}" == "99.6"
    open_page(browser, page_url(service))
    assert (
        "The model's most confident mistake: it predicts versicolor with a probability of 99.6% "
        "for one flower of class virginica."
    ) in text(browser, "header")
    browser.find_element(By.ID, "show-mistake").click()
    wait_for(browser, "#class", "versicolor")
    assert {**shown_sample(browser), "species": "virginica"} == flower
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(browser.current_url).query)
    assert query["petalLengthCm"] == ["4.5"]


def test_click_selects_the_topmost_of_several_points(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, page_url(service))
    petals = [(flower["petalLengthCm"], flower["petalWidthCm"]) for flower in DATA]
    same = [index for index, petal in enumerate(petals) if petal == petals[138]]
    assert len(same) == 3
    click(browser, *place_of_point(browser, DATA[same[0]]))
    wait_for(browser, "#curl", f'"sepalLengthCm": {DATA[same[-1]]["sepalLengthCm"]:g}')
    assert {**shown_sample(browser), "species": "virginica"} == DATA[same[-1]]


def test_drag_selects_no_point(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    drag = ActionChains(browser)
    move_mouse(drag, *place_of_point(browser, DATA[0]))
    drag.click_and_hold()
    move_mouse(drag, *place_of_point(browser, DATA[MISTAKE]))
    drag.release().perform()
    wait_for(browser, "#curl", '"petalLengthCm": 4.5')
    assert shown_sample(browser) == {**FLOWER, "petalLengthCm": 4.5, "petalWidthCm": 1.7}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(
            "petalLengthCm=1.4&petalWidthCm=0,2",
            {"petalLengthCm": 1.4, "petalWidthCm": 0.2},
            id="decimal point and comma",
        ),
        pytest.param("petalWidthCm=-1", {"petalWidthCm": 0}, id="out of range"),
        pytest.param(
            "petalLengthCm=long&petalWidthCm=&sepalLengthCm=%20&sepalWidthCm=unknown&sepal=3",
            {},
            id="not numbers",
        ),
    ],
)
def test_url_sets_the_valid_fields(
    browser: webdriver.Chrome, service: Service, query: str, expected: dict[str, float]
) -> None:
    open_page(browser, page_url(service, f"?{query}"))
    assert shown_sample(browser) == {**FLOWER, **expected}


def test_regions_show_the_models_predictions(browser: webdriver.Chrome, service: Service) -> None:
    open_page(browser, page_url(service))
    axes = shown_axes(browser)
    # Every point of this grid lies between two thresholds, which are multiples of 0.1.
    values = [(1 + x / 20 + 0.025, y / 20 + 0.025) for x in range(119) for y in range(49)]
    for sepal_length, sepal_width in [(5.9, 3), (6.1, 3), (4.5, 2.3), (7.7, 3.05), (6.5, 2.8)]:
        before = regions(browser)
        replace(number_field(browser, "sepalLengthCm"), str(sepal_length))
        replace(number_field(browser, "sepalWidthCm"), str(sepal_width))
        if sepal_length != 5.9:
            wait_for_change(browser, before)
        wait_for(browser, "#response", "return")
        flowers = [[sepal_length, sepal_width, *petal] for petal in values]
        body = json.dumps([dict(zip(FLOWER, flower, strict=True)) for flower in flowers])
        labels = json.loads(service.request("POST", "/predict", body)[2])["return"]
        shown = browser.execute_script(CLASSES_AT, values, *axes)
        wrong = [
            value
            for value, label, index in zip(values, labels, shown, strict=True)
            if label != str(index)
        ]
        assert wrong == []


def test_step_within_a_cell_requests_only_the_prediction(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, page_url(service))
    before = regions(browser)
    browser.execute_script("""
        const real = window.fetch;
        window.sent = [];
        window.fetch = (url, options) => {
          window.sent.push((options?.body ?? "").length);
          return real(url, options);
        };
    """)
    sepal_width = slider(browser, "sepalWidthCm")
    sepal_width.send_keys(Keys.HOME)
    wait_for_change(browser, before)
    wait_for(browser, "#response", "return")
    sepal_width.send_keys(Keys.ARROW_RIGHT)  # within the same cell
    wait_for(browser, "#curl", '"sepalWidthCm": 1.9')
    wait_for(browser, "#response", "return")
    regions_, strips, *others = sorted(browser.execute_script("return window.sent"), reverse=True)
    assert 1_000 < strips <= regions_ < 4_000
    assert len(others) == 4 and max(others) < 100  # two requests for each of two flowers


def test_screen_reader_hears_the_species_when_it_changes(
    browser: webdriver.Chrome, service: Service
) -> None:
    open_page(browser, page_url(service))
    live = "[aria-live], output, [role=status], [role=alert], [role=log], [role=timer]"
    live_regions = browser.find_elements(By.CSS_SELECTOR, live)
    assert [region.get_attribute("id") for region in live_regions] == ["problem", "class"]
    browser.execute_script("""
        window.heard = [];
        const species = document.getElementById("class");
        new MutationObserver(() => heard.push(species.textContent))
          .observe(species, { childList: true, characterData: true, subtree: true });
    """)
    petal_length = slider(browser, "petalLengthCm")
    for keys, expected, heard in (
        (Keys.ARROW_LEFT * 2, "83.1%", []),
        (Keys.ARROW_RIGHT * 2, "99.5%", []),
        (Keys.HOME, "2.0%", ["setosa"]),
    ):
        petal_length.send_keys(keys)
        wait_for(browser, "#response", "return")
        virginica = browser.find_element(By.CSS_SELECTOR, ".probability:nth-child(3)")
        assert (virginica.aria_role, virginica.accessible_name) == ("meter", "virginica")
        assert virginica.get_attribute("aria-valuetext") == expected
        assert percent(browser, "virginica") == expected
        assert browser.execute_script("return heard") == heard
    headings = browser.find_elements(By.CSS_SELECTOR, "h1, h2, h3")
    assert [heading.accessible_name for heading in headings] == [
        *("Iris prediction service", "Species", "Flower"),
        *("The request and response for this flower", "fetch", "curl", "Response"),
    ]
    strip = browser.find_element(By.CSS_SELECTOR, "[data-name=petalLengthCm] .strip")
    assert strip.aria_role in ("img", "image")
    assert strip.accessible_name.startswith("petal length: setosa from ")


# ---- Where things are ------------------------------------------------------------------------

CLASSES_AT = """
    const rectangles = [...document.querySelectorAll("#regions rect")].map((rectangle) => {
      const [x, y, width, height] = ["x", "y", "width", "height"]
        .map((name) => +rectangle.getAttribute(name));
      return [x, y, x + width, y + height, +rectangle.style.color.match(/color-(\\d)/)[1]];
    });
    const [values, across, up] = arguments;
    const frame = document.getElementById("frame");
    const [left, top, width, height] = ["x", "y", "width", "height"]
      .map((name) => +frame.getAttribute(name));
    const share = (value, { minimum, maximum }) => (value - minimum) / (maximum - minimum);
    return values.map(([length, breadth]) => {
      const x = left + share(length, across) * width;
      const y = top + height - share(breadth, up) * height;
      const found = rectangles.filter(([left, top, right, bottom]) =>
        left <= x && x < right && top < y && y <= bottom);
      return found.length === 1 ? found[0][4] : null;
    });
"""
BOXES = """
    return [...document.querySelectorAll(arguments[0])].map((element) => {
      const { left, top, right, bottom } = element.getBoundingClientRect();
      return [left, top, right, bottom];
    });
"""
IS_ON_TOP = """
    const { x, y, width, height } = arguments[0].getBoundingClientRect();
    return document.elementFromPoint(x + width / 2, y + height / 2) === arguments[0];
"""


@pytest.mark.parametrize(
    ("width", "height"),
    [(844, 390), (390, 844), (360, 640), (360, 540), (640, 360), (1280, 390)],
)
def test_plot_and_result_are_in_view_while_a_slider_moves(
    browser: webdriver.Chrome, service: Service, width: int, height: int
) -> None:
    resize(browser, width, height)
    enable_touch(browser)
    open_page(browser, page_url(service))
    browser.execute_script("scrollTo(0, document.querySelector('.explore').offsetTop)")
    for moved in browser.find_elements(By.CSS_SELECTOR, "input[type=range]"):
        browser.execute_script("arguments[0].scrollIntoView({ block: 'nearest' })", moved)
        scrolled = browser.execute_script("return scrollY")
        before = moved.get_property("value")
        (box,) = browser.execute_script(BOXES, f"#{moved.get_property('id')}")
        middle = int(box[0] + box[2]) // 2
        swipe(browser, middle, int(box[1] + box[3]) // 2, right=(int(box[2]) - middle) // 2)
        assert moved.get_property("value") != before
        assert browser.execute_script("return scrollY") == scrolled
        shown = browser.execute_script(BOXES, "#plot, #here, #class, .probability")
        assert len(shown) == 6
        for left, top, right, bottom in shown:
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            apart = bottom <= box[1] or box[3] <= top or right <= box[0] or box[2] <= left
            assert apart
        plot, _, *results = shown
        for result in results:
            assert plot[2] <= result[0] or plot[3] <= result[1]
        for element in (moved, *browser.find_elements(By.CSS_SELECTOR, ".percent")):
            assert browser.execute_script(IS_ON_TOP, element)


@pytest.mark.parametrize(
    ("width", "height", "size"), [(640, 360, 200), (360, 640, 100), (844, 390, 100)]
)
def test_focused_field_is_not_covered(
    browser: webdriver.Chrome, service: Service, width: int, height: int, size: int
) -> None:
    resize(browser, width, height)
    open_page(browser, page_url(service))
    browser.execute_script(f"document.documentElement.style.fontSize = '{size}%'")
    fields = browser.find_elements(By.CSS_SELECTOR, "form input")
    snippet = browser.find_element(By.ID, "fetch")
    browser.execute_script("arguments[0].focus()", snippet)
    backwards = [browser.find_element(By.CSS_SELECTOR, "[aria-label='Copy fetch']"), *fields[::-1]]
    for field in backwards:
        ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
        assert browser.switch_to.active_element == field
        assert browser.execute_script(IS_ON_TOP, field)
    for field in fields[1:]:
        ActionChains(browser).send_keys(Keys.TAB).perform()
        assert browser.switch_to.active_element == field
        assert browser.execute_script(IS_ON_TOP, field)


def test_request_and_response_fit_without_scrolling(
    browser: webdriver.Chrome, service: Service
) -> None:
    resize(browser, 1280, 900)
    open_page(browser, page_url(service))
    for box in browser.find_elements(By.TAG_NAME, "pre"):
        assert box.get_property("scrollWidth") <= box.get_property("clientWidth")
        assert box.get_property("scrollHeight") <= box.get_property("clientHeight")


# ---- Another browser -------------------------------------------------------------------------

FIREFOX = """
import puppeteer from "puppeteer-core";

const [executablePath, url] = process.argv.slice(1);
const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true });
const page = await browser.newPage();
await page.setViewport({ width: 1280, height: 1180 });
const messages = [];
page.on("console", (message) => messages.push(message.text()));
page.on("pageerror", (error) => messages.push(error.message));
const species = (name) => page.waitForFunction(
  (name) => document.getElementById("class").textContent === name, {}, name);
await page.goto(url);
await page.waitForSelector("#points use:nth-child(150)");
await page.waitForSelector("#regions rect");
await page.waitForSelector(".strip[style*=gradient]");
await species("virginica");
const frame = await (await page.$("#frame")).boundingBox();
await page.mouse.click(frame.x + frame.width / 5, frame.y + frame.height / 2);
await species("setosa");
const point = await (await page.$("#points use:nth-child(107)")).boundingBox();
await page.mouse.click(point.x + point.width / 2, point.y + point.height / 2);
await species("versicolor");
const number = await page.$("[data-name=petalLengthCm] input[inputmode]");
await number.click({ count: 3 });
await number.type("5,1");
await species("virginica");
console.log(JSON.stringify([messages, new URL(page.url()).search]));
await browser.close();
"""


def test_page_works_in_firefox(service: Service) -> None:
    messages, query = json.loads(node(FIREFOX, tool("firefox-esr"), page_url(service)))
    assert messages == []
    point = "sepalLengthCm=4.9&sepalWidthCm=2.5&petalLengthCm=4.5&petalWidthCm=1.7"
    assert query == f"?{point}"  # of the last click
