"""Take the README's picture of the page: python -m tests.picture"""

import base64
import tempfile

from tests.service import Service
from tests.test_browser import STATIC, chromium, open_page, resize

with tempfile.TemporaryDirectory() as folder, Service() as service, chromium(folder) as browser:
    open_page(browser, f"http://127.0.0.1:{service.port}/static")
    resize(browser, 1280, browser.execute_script("return document.documentElement.scrollHeight"))
    taken = {"format": "webp", "quality": 85}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", taken)["data"]
    (STATIC / "page.webp").write_bytes(base64.b64decode(shot))
