"""Apps for the tests of the worker: a plain WSGI app, and common kinds of others."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Respond without Flask. A path that is not listed gets 404, and its body is not read."""
    status = "200 OK"
    match environ["PATH_INFO"]:
        case "/":
            body = b"hello!!"
        case "/echo":
            body = environ["wsgi.input"].read()
        case "/client":
            body = environ["REMOTE_ADDR"].encode()
        case "/large":
            body = b"x" * 1_000_000
        case "/slow-echo":
            time.sleep(3)  # other greenlets run meanwhile
            body = environ["wsgi.input"].read()
        case "/slow":
            time.sleep(3)
            body = b"done"
        case "/slow-large":
            time.sleep(3)
            body = b"x" * 1_000_000
        case "/busy":
            end = time.monotonic() + 0.7
            while time.monotonic() < end:  # nothing else runs meanwhile
                pass
            body = b"done"
        case _:
            status, body = "404 Not Found", b""
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]


def bare_flask() -> Flask:
    """Return an app that does not configure Flask."""
    app = Flask("bare")

    @app.get("/")
    def hello() -> str:
        return "hello!!"

    @app.post("/echo")
    def echo() -> bytes:
        return request.get_data()

    return app


def tutorial() -> Flask:
    """Return a tutorial's app on top of this project's model.py."""
    import model

    app = bare_flask()

    @app.post("/predict")
    def predict() -> dict[str, str]:
        return {"return": str(model.predict(request.get_json()))}

    return app


def behind_proxy() -> ProxyFix:
    """Return run.app in a WSGI middleware."""
    import run

    return ProxyFix(run.app)
