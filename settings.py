"""Settings from the environment, for `python run.py` and gunicorn alike.

An invalid value of a variable that is checked here aborts startup with a one-line error.
"""

import os
import re
import socket
import sys
from difflib import get_close_matches
from ipaddress import IPv6Address
from logging import Logger
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask_cors.core import CONFIG_OPTIONS

# A scheme, a host and an optional port, without a path (RFC 6454). The host may be an IPv6 address.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", re.I)
# A host whose last label is a number: browsers read it as an IPv4 address, such as 127.1.
IPV4 = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
DEFAULT_PORTS = {"http": 80, "https": 443}


def port() -> int:
    """Return PORT, by default 3000."""
    value = os.environ.get("PORT", "3000")
    if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= 65535):
        raise SystemExit(f"PORT must be a number from 1 to 65535, not {value!r}.")
    return int(value)


def wildcard_address() -> str:
    """Return the address of all interfaces: "::", or "0.0.0.0" on a system without IPv6."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"


def bind_addresses(port: int) -> list[str]:
    """Return the addresses on which gunicorn accepts IPv6 and IPv4 on all interfaces."""
    if wildcard_address() == "0.0.0.0":
        return [f"0.0.0.0:{port}"]
    with socket.socket(socket.AF_INET6) as probe:
        ipv6_only = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return [f"[::]:{port}", f"0.0.0.0:{port}"] if ipv6_only else [f"[::]:{port}"]


def page_url(host: str, port: int) -> str:
    """Return the URL of the demo page on a server that listens on this host."""
    if host in ("", "::", "0.0.0.0"):
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/static/index.html"


def check_server(logger: Logger) -> None:
    """Warn if gunicorn serves the app without gunicorn.conf.py.

    This happens if gunicorn is started in another folder: `gunicorn --chdir FOLDER run:app` looks
    for the file before it changes to FOLDER.
    """
    # gunicorn.conf.py imports gunicorn_worker.
    if "gunicorn.arbiter" in sys.modules and "gunicorn_worker" not in sys.modules:
        path = Path(__file__).with_name("gunicorn.conf.py")
        logger.warning(
            "gunicorn is running without this service's settings, so one slow client can block it. "
            "Start it with: gunicorn -c %s run:app",
            path,
        )


def check_names(config: dict[str, Any]) -> None:
    """Reject what looks like a misspelled FLASK_MAX_CONTENT_LENGTH or FLASK_CORS_ variable.

    Flask would ignore it: FLASK_CORS_ORIGIN instead of FLASK_CORS_ORIGINS would leave every origin
    allowed. `config` holds the defaults. Other unknown names pass: `flask run`, for example,
    reads FLASK_APP.
    """
    known = [*CONFIG_OPTIONS, "MAX_CONTENT_LENGTH"]
    for name in os.environ:
        if not name.upper().startswith("FLASK_"):
            continue
        # Flask uses upper-case names only; FLASK_A__B sets config["A"]["B"].
        key = name.removeprefix("FLASK_").partition("__")[0]
        if key in config or key in CONFIG_OPTIONS:
            continue
        meant = name.upper().removeprefix("FLASK_")
        cutoff = 0 if meant.startswith("CORS_") else 0.7  # with 0, one is always found
        nearest = get_close_matches(meant, known, n=1, cutoff=cutoff)
        if nearest:
            raise SystemExit(f"{name} is not a setting. Did you mean FLASK_{nearest[0]}?")


def check_values(config: dict[str, Any]) -> None:
    """Reject invalid values of MAX_CONTENT_LENGTH and CORS_SUPPORTS_CREDENTIALS."""
    length = config["MAX_CONTENT_LENGTH"]
    if type(length) is not int or length < 1:
        raise SystemExit(f"FLASK_MAX_CONTENT_LENGTH must be 1 or more bytes, not {length!r}.")
    credentials = config.get("CORS_SUPPORTS_CREDENTIALS", False)
    if not isinstance(credentials, bool):
        raise SystemExit(
            f"FLASK_CORS_SUPPORTS_CREDENTIALS must be true or false, not {credentials!r}."
        )


def allowed_origins(config: dict[str, Any]) -> list[str | re.Pattern[str]]:
    """Return CORS_ORIGINS as Flask-Cors needs it; the default allows every origin.

    The value is text with origins separated by commas, or a list. An empty list is rejected: it
    would allow no origin at all, surely by mistake.
    """
    origins = config.get("CORS_ORIGINS", "*")
    if isinstance(origins, str):
        origins = [origin.strip() for origin in origins.split(",")]
    if not isinstance(origins, list) or not origins:
        raise invalid_origin(origins)
    return [origin_pattern(origin) for origin in origins]


def origin_pattern(origin: Any) -> str | re.Pattern[str]:
    """Return a pattern that matches this origin only, or `*` as it is.

    Flask-Cors would treat text with brackets, which an IPv6 address has, as a regular expression.
    `https://*.example.com` is rejected: escaped, it would match no origin; as a regular expression,
    it would match `https://xexample.com`. `null` is rejected because any site can make a page with
    this origin.
    """
    if origin == "*":
        return origin
    if not isinstance(origin, str) or not ORIGIN.fullmatch(origin):
        raise invalid_origin(origin)
    try:
        return re.compile(re.escape(normalized(origin)) + r"\Z")  # \Z: the end, unlike $
    except (ValueError, OSError):
        raise invalid_origin(origin) from None


def normalized(origin: str) -> str:
    """Return an origin as browsers send it.

    They send scheme and host in lower case, leave out the scheme's default port, and write 127.1 as
    127.0.0.1 and IPv6 addresses in their shortest form. Raises ValueError or OSError for an invalid
    port or IP address.
    """
    url = urlsplit(origin.lower())
    host, port = url.hostname or "", url.port
    if ":" in host:
        address = IPv6Address(host)
        if address.ipv4_mapped:  # which browsers and Python versions write differently
            raise ValueError
        host = f"[{address}]"
    elif IPV4.fullmatch(host):
        host = socket.inet_ntoa(socket.inet_aton(host))
    if port is None or port == DEFAULT_PORTS.get(url.scheme):
        return f"{url.scheme}://{host}"
    return f"{url.scheme}://{host}:{port}"


def invalid_origin(value: Any) -> SystemExit:
    return SystemExit(
        f"Each origin in FLASK_CORS_ORIGINS must be * or scheme://host[:port], not {value!r}."
    )


def without_prefix(address: str) -> str:
    """Return a client's IPv4 address without the `::ffff:` that an IPv6 socket puts before it."""
    return address.removeprefix("::ffff:")
