"""What a request may bring: a body of a bounded size, and no upload when the disk's share is used up."""

import os
import time
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

MOST_BODY = 24_000_000  # an upload of 20 MB, or a pasted table
MOST_DISK = 1_000_000_000  # of all uploads that are not deleted yet


class Guard:
    """Counts what comes in; Gradio itself bounds only the files of a form."""

    def __init__(self, app: Any, folder: str):
        self.app = app
        self._folder = Path(folder)
        self._looked, self._used = 0.0, 0

    @classmethod
    def middleware(cls, folder: str) -> list[Middleware]:
        return [Middleware(cls, folder=folder)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MOST_BODY:
            said = f"At most {MOST_BODY / 1e6:.0f} MB are taken."
            return await PlainTextResponse(said, 413)(scope, receive, send)
        if scope["path"].endswith("/upload") and self._disk() > MOST_DISK:
            said = "Too many files are being measured; try again in half an hour."
            return await PlainTextResponse(said, 503)(scope, receive, send)
        came = 0

        async def counted() -> Any:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            return {"type": "http.disconnect"} if came > MOST_BODY else message  # sent without saying how much it is

        return await self.app(scope, counted, send)

    def _disk(self) -> int:
        """Bytes of the uploads, looked up at most once a second."""
        if time.monotonic() - self._looked > 1:
            walk = (os.path.join(where, name) for where, _, names in os.walk(self._folder) for name in names)
            self._used = sum(os.stat(path).st_size for path in walk if os.path.exists(path))
            self._looked = time.monotonic()
        return self._used
