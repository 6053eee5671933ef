"""Take README's screenshot of the demo page: python -m tests.picture"""

import base64
import tempfile

from tests.browser import chromium, open_page, page_url, resize
from tests.service import ROOT, Service

with tempfile.TemporaryDirectory() as folder, Service() as service, chromium(folder) as browser:
    open_page(browser, page_url(service))
    resize(browser, 1280, browser.execute_script("return document.documentElement.scrollHeight"))
    taken = {"format": "webp", "quality": 85}
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", taken)["data"]
    (ROOT / "docs" / "page.webp").write_bytes(base64.b64decode(picture))
