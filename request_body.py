"""Reading a request's body within limits, so that all that a process reads at once fits in memory.

Not with Flask's request.get_data(), which makes a request for one flower 13 percent slower and
answers a malformed chunk with 500.
"""

import threading
from typing import IO, NoReturn

from flask import Response, abort, after_this_request, request
from werkzeug.exceptions import ServiceUnavailable

MAX_LENGTH = 2**21  # bytes: 10,000 flowers in full precision, each with its species, take 1.5 MB
SMALL = 2**14  # bytes; a body up to this length is never refused for the sake of others
LARGE_BODIES = 8  # so many of MAX_LENGTH, or more of shorter ones, are answered at once: 16 MiB


class BodyReader:
    """Reads bodies of up to `limit` bytes, and those longer than SMALL within a common budget.

    Such a body takes its length from the budget until its answer has been sent. The length stands
    for what is in memory while a slow client is waited for: first the body, and then the answer,
    at most one and a half times as long. Without a budget, clients that stall would fill it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.budget = LARGE_BODIES * limit
        self.reserved = 0
        self.lock = threading.Lock()

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
        if length > SMALL:
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
        small = min(SMALL, self.limit)  # the limit may be set to less than SMALL
        body = read_or_abort(stream, small + 1)
        if small < len(body) <= self.limit:
            self.reserve(self.limit)
            body += read_or_abort(stream, self.limit + 1 - len(body))
        if len(body) > self.limit:
            self.abort_as_too_long()
        return body

    def abort_as_too_long(self) -> NoReturn:
        abort(413, f"The body is longer than {self.limit} bytes.")

    def reserve(self, length: int) -> None:
        """Take a length from the budget until the answer has been sent, or refuse the request."""
        with self.lock:
            if self.reserved + length > self.budget:
                raise ServiceUnavailable(
                    "Too many large requests are being answered.", retry_after=1
                )
            self.reserved += length

        def release() -> None:
            with self.lock:
                self.reserved -= length

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
