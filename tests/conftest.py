from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

import run
from tests.browser import browser, other_origin, started_browser  # noqa: F401 (fixtures)
from tests.service import Service


@pytest.fixture
def client() -> FlaskClient:
    return run.app.test_client()


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with Service(PYTHONPATH="") as service:  # without tests/image, which hides scikit-learn
        yield service
