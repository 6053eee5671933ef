"""Reading a request's body within limits, so that all that a process reads at once fits in memory.

Not with Flask's request.get_data(), which makes a request for one flower 13 percent slower and
answers a malformed chunk with 500.
"""

import threading
from typing import IO, NoReturn

from flask import Response, abort, after_this_request, request
from werkzeug.exceptions import ServiceUnavailable

# Bytes of a body and of its response, in general, and up to which a request is small: never
# rejected for the sake of others. A schema whose responses are longer has shorter bodies instead.
MAX_LENGTH, MAX_RESPONSE = 2**21, 3 * 2**20
SMALL, SMALL_RESPONSE = 2**14, 3 * 2**13
LARGE_REQUESTS = 8  # this many of the largest are in progress at once, or more of smaller ones


def max_length(response_per_body: float) -> int:
    """Return the longest body by default, in bytes, for responses of up to so many times that."""
    return int(min(MAX_LENGTH, MAX_RESPONSE / response_per_body))


class BodyReader:
    """Reads bodies of up to `limit` bytes, and all but small ones within a common budget.

    Such a request takes its size from the budget until its response has been sent. Its size is the
    longer of body and longest possible response, which is `response_per_body` times as long: first
    the one and then the other is in memory while a slow client is waited for. Without a budget,
    stalled clients would fill the memory. Raises SystemExit for a limit that the budget cannot
    serve.
    """

    def __init__(self, limit: int, response_per_body: float) -> None:
        self.limit = limit
        self.size_per_body = max(1, response_per_body)
        self.small = int(min(SMALL, SMALL_RESPONSE / response_per_body, limit))
        self.budget = LARGE_REQUESTS * max(limit, MAX_RESPONSE)
        self.reserved = 0
        self.lock = threading.Lock()
        if self.size_per_body * limit > self.budget:
            largest = int(LARGE_REQUESTS * MAX_RESPONSE / self.size_per_body)
            raise SystemExit(
                f"FLASK_MAX_CONTENT_LENGTH must be at most {largest} for these classes and "
                f"features, not {limit}: a longer response would never fit in memory."
            )

    def read(self) -> bytes:
        """Return the body of Flask's request.

        Raises BadRequest for one that ends early or has a malformed chunk, RequestEntityTooLarge,
        and ServiceUnavailable when the budget is used up.
        """
        stream = request.environ["wsgi.input"]  # in which the server has put chunks together
        if "HTTP_TRANSFER_ENCODING" in request.environ:
            return self.read_chunks(stream)
        return self.read_announced(stream, request.content_length or 0)

    def read_announced(self, stream: IO[bytes], length: int) -> bytes:
        """Return a body whose length the header Content-Length announces."""
        if length > self.limit:
            self.abort_as_too_long()
        if length > self.small:
            self.reserve(length)
        body = read_or_abort(stream, length)
        if len(body) < length:
            abort(400, f"The body ends after {len(body)} of the {length} bytes announced.")
        return body

    def read_chunks(self, stream: IO[bytes]) -> bytes:
        """Return a body that comes in chunks, whose length nobody knows before its end.

        Asking for a byte more than there may be shows whether there is more. One that is not small
        takes the whole limit from the budget, as it may become so long.
        """
        body = read_or_abort(stream, self.small + 1)
        if self.small < len(body) <= self.limit:
            self.reserve(self.limit)
            body += read_or_abort(stream, self.limit + 1 - len(body))
        if len(body) > self.limit:
            self.abort_as_too_long()
        return body

    def abort_as_too_long(self) -> NoReturn:
        abort(413, f"The body is longer than {self.limit} bytes.")

    def reserve(self, length: int) -> None:
        """Take a length from the budget until the answer has been sent, or refuse the request."""
        size = int(self.size_per_body * length)
        with self.lock:
            if self.reserved + size > self.budget:
                raise ServiceUnavailable(
                    "Too many large requests are being answered.", retry_after=1
                )
            self.reserved += size

        def release() -> None:
            with self.lock:
                self.reserved -= size

        @after_this_request
        def release_when_sent(answer: Response) -> Response:
            answer.call_on_close(release)
            return answer


def read_or_abort(stream: IO[bytes], length: int) -> bytes:
    """Return up to so many bytes, fewer only at the body's end."""
    try:
        return stream.read(length)
    except Exception as error:  # OSError, or the server's own for a malformed chunk
        abort(400, f"The body ends early or has a malformed chunk: {type(error).__name__}.")
