"""Take the README's picture of the page: python -m tests.picture"""

import base64
import tempfile

from selenium import webdriver

from tests.service import ROOT, Service, tool
from tests.test_browser import FLAGS, open_page

with tempfile.TemporaryDirectory() as folder, Service() as service:
    options = webdriver.ChromeOptions()
    options.binary_location = tool("chromium")
    for flag in [*FLAGS.split(), f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    with webdriver.Chrome(options, webdriver.ChromeService(tool("chromedriver"))) as browser:
        open_page(browser, f"http://127.0.0.1:{service.port}/static")
        taken = {"format": "webp", "quality": 85}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", taken)["data"]
        (ROOT / "static" / "page.webp").write_bytes(base64.b64decode(shot))
