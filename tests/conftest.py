from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

import run
from tests.service import ROOT, Service

# Most services in the tests start without scikit-learn, as in the image: in half the time.
Service.env["PYTHONPATH"] = str(ROOT / "tests" / "image")


@pytest.fixture
def client() -> FlaskClient:
    return run.app.test_client()


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with Service(PYTHONPATH="") as service:
        yield service
