"""What the environment sets, for both servers: Flask's own and gunicorn.

A value that is not possible stops the start with a sentence.
"""

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
    return "0.0.0.0" if only_ipv6 else "::"  # on Windows, a socket takes only IPv6 by default


def page(host: str, port: int) -> str:
    """Return the address of the page that shows the model, on a server that listens there."""
    if host in ("::", "0.0.0.0"):
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/static/index.html"


def check_flask(config: dict[str, Any]) -> None:
    """Check those settings in Flask's config that README names, and make CORS_ORIGINS patterns.

    Raises SystemExit unless MAX_CONTENT_LENGTH, which has a default, is a number of bytes,
    CORS_SUPPORTS_CREDENTIALS true or false, and CORS_ORIGINS `*`, an origin or several, as text or
    as a list.
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
    """Return the origins in a text, separated by commas, or in a list that is not empty."""
    if isinstance(value, str):
        return [origin.strip() for origin in value.split(",")]
    if isinstance(value, list) and value:  # an empty one would mean nobody, surely by mistake
        return value
    raise not_an_origin(value)


def pattern(origin: Any) -> str | re.Pattern[str]:
    """Return the pattern of an origin for Flask-Cors; raise SystemExit unless it is one, or `*`.

    It is a pattern, as Flask-Cors takes text with brackets for a regular expression, and an IPv6
    address has them. `https://*.example.com` is refused: as a regular expression it would allow
    `https://xexample.com`. `null` is refused: anybody can make a page that has this origin.
    """
    if origin == "*":
        return origin
    if not isinstance(origin, str) or not ORIGIN.fullmatch(origin):
        raise not_an_origin(origin)
    return re.compile(re.escape(origin) + r"\Z", re.IGNORECASE)  # \Z: and nothing after it


def not_an_origin(value: Any) -> SystemExit:
    return SystemExit(
        f"FLASK_CORS_ORIGINS has {value!r}, and each has to be * or scheme://host[:port]."
    )


def without_prefix(address: str) -> str:
    """Return a client's IPv4 address as it is, without `::ffff:` of a socket for both families."""
    return address.removeprefix("::ffff:")
