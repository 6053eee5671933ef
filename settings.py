"""What the environment sets. A value that cannot be stops the start with a sentence."""

import os
import re
import socket
from typing import Any

# RFC 6454: a scheme, a host and perhaps a port, without a path. The host may be an IPv6 address.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.I)


def port() -> int:
    """Return PORT, by default 3000; raise SystemExit unless it is a port's number."""
    value = os.environ.get("PORT", "3000")
    if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= 65535):
        raise SystemExit(f"PORT is {value!r} and has to be a number from 1 to 65535.")
    return int(value)


def all_interfaces() -> str:
    """Return the address of all interfaces, in IPv6 and IPv4 where one socket takes both."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            only_ipv6 = probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:  # a system without IPv6
        return "0.0.0.0"
    return "0.0.0.0" if only_ipv6 else "::"  # Windows' sockets take only IPv6 by default


def page(host: str, port: int) -> str:
    """Return the address of the page that shows the model."""
    return f"http://{host}:{port}/static/index.html"


def check_flask(config: dict[str, Any]) -> None:
    """Check what Flask has read from FLASK_*, and replace CORS_ORIGINS by patterns.

    Raises SystemExit unless MAX_CONTENT_LENGTH is a number of bytes, CORS_SUPPORTS_CREDENTIALS
    true or false, and CORS_ORIGINS `*`, an origin or several, as text or as a list.
    """
    length = config["MAX_CONTENT_LENGTH"]
    if type(length) is not int or length < 1:
        raise SystemExit(f"FLASK_MAX_CONTENT_LENGTH is {length!r} and has to be a number of bytes.")
    credentials = config.get("CORS_SUPPORTS_CREDENTIALS", False)
    if not isinstance(credentials, bool):
        raise SystemExit(
            f"FLASK_CORS_SUPPORTS_CREDENTIALS is {credentials!r} and has to be true or false."
        )
    if "CORS_ORIGINS" in config:
        config["CORS_ORIGINS"] = [pattern(origin) for origin in origins(config["CORS_ORIGINS"])]


def origins(value: Any) -> list[Any]:
    """Return the origins in a text, separated by commas, or in a list."""
    if isinstance(value, str):
        return [origin.strip() for origin in value.split(",")]
    if isinstance(value, list) and value:
        return value
    return [value]  # which is no origin


def pattern(origin: Any) -> str | re.Pattern[str]:
    """Return what Flask-Cors matches with an origin; raise SystemExit unless it is one, or `*`.

    Flask-Cors would take `https://*.example.com` for a regular expression, which
    `https://xexample.com` matches, and the `null` that it allows is every sandboxed page.
    """
    if origin == "*":
        return origin
    if not isinstance(origin, str) or not ORIGIN.fullmatch(origin):
        raise SystemExit(
            f"FLASK_CORS_ORIGINS has {origin!r}, and each has to be * or scheme://host[:port]."
        )
    return re.compile(re.escape(origin) + r"\Z", re.IGNORECASE)


def without_prefix(address: str) -> str:
    """Return a client's IPv4 address as it is, without `::ffff:` of a socket for both families."""
    return address.removeprefix("::ffff:")
