"""Limit requests: the size of their bodies, and the part of the disk that their files fill."""

import asyncio
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect

MAX_UPLOAD = 24_000_000  # bytes of a body with files: one of 20 MB
MAX_QUESTION = 4_000_000  # bytes of any other body: 200 of them wait in memory, the longest with a pasted table
MAX_VALUES = 100_000  # in a question: the number of its bytes outside strings
STRING = re.compile(rb'"[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
MAX_INCOMING = 500_000_000  # bytes of all bodies that are arriving
MAX_SECONDS = 180  # that a body may take to arrive
MAX_DISK = 1_000_000_000  # bytes of all files in the app's folder
MAX_FILES = 5_000  # in the app's folder
MAX_AGE = 3_600  # seconds that a file is kept
SWEEP_SECONDS = 300
UPLOADS = ("/upload", "/gradio_api/upload")


class Guard:
    """Bound bodies while they arrive, and delete the files that Gradio does not delete.

    Gradio writes an upload to a file at the top of the folder and moves it into a subfolder when it is complete. It
    deletes complete uploads after half an hour. It does not register broken ones, so it never deletes them.
    """

    def __init__(self, app: Any, folder: str):
        self.app = app
        self._folder = Path(folder)
        self._incoming, self._num_uploads = 0, 0

    @classmethod
    def middleware(cls, folder: str) -> list[Middleware]:
        return [Middleware(cls, folder=folder)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            sweep = asyncio.create_task(self._sweep())
            try:
                return await self.app(scope, receive, send)
            finally:
                sweep.cancel()
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        # The exact route: a question to an endpoint named upload is a question.
        is_upload = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") in UPLOADS
        size, is_complete, last = 0, False, time.monotonic() + MAX_SECONDS

        # The header with the length is optional and may be false, so the bytes are counted as they arrive.
        async def receive_bounded() -> Any:
            nonlocal size, is_complete
            if is_complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(last - time.monotonic(), 0))
            except TimeoutError:
                raise HTTPException(408, f"A request must arrive within {MAX_SECONDS} seconds.") from None
            size += (length := len(message.get("body", b"")))
            self._incoming += length
            is_complete = not message.get("more_body", False)
            if size > (limit := MAX_UPLOAD if is_upload else MAX_QUESTION):
                raise HTTPException(413, f"A request must have at most {limit / 1e6:.0f} MB.")
            if self._incoming > MAX_INCOMING:
                raise HTTPException(503, "Too many files arrive at the same time. Try again in a minute.")
            return message

        # Values take many times their size in memory, so a question is counted before it is decoded.
        async def receive_question() -> Any:
            if is_complete:
                return await receive()
            body = b""
            while not is_complete:
                message = await receive_bounded()
                if message["type"] != "http.request":
                    return message
                body += message.get("body", b"")
            num_quotes = body.count(b'"') - body.count(b'\\"')
            if num_quotes > 2 * MAX_VALUES or len(body) > MAX_VALUES < len(STRING.sub(b"", body)):
                raise HTTPException(413, f"A request must have at most {MAX_VALUES:,} values.")
            return {"type": "http.request", "body": body, "more_body": False}

        self._num_uploads += is_upload
        try:
            await self.app(scope, receive_bounded if is_upload else receive_question, send)
        except ClientDisconnect:
            pass  # The visitor closed the connection, so an answer has no reader.
        finally:
            self._incoming -= size
            self._num_uploads -= is_upload
            if is_upload:
                self._delete_files()

    async def _sweep(self) -> None:
        while True:
            self._delete_files()
            await asyncio.sleep(SWEEP_SECONDS)

    def _delete_files(self) -> None:
        """Delete broken uploads, old files, and the oldest files beyond the bounds. An upload is never refused."""
        now, files = time.time(), []
        for where, folders, names in os.walk(self._folder):
            with suppress(OSError):  # a new upload may have come into an empty folder
                is_old = now - os.stat(where).st_mtime > MAX_SECONDS
                if not folders and not names and is_old and Path(where) != self._folder:
                    os.rmdir(where)
            for path in (Path(where, name) for name in names):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                # A file at the top is an upload that arrives or broke off; none arrives for longer than MAX_SECONDS.
                is_broken = Path(where) == self._folder and not (
                    self._num_uploads and now - status.st_mtime < MAX_SECONDS
                )
                if is_broken or now - status.st_mtime > MAX_AGE:
                    path.unlink(missing_ok=True)
                else:
                    files.append((status.st_mtime, status.st_size, path))
        files.sort(reverse=True)
        used = 0
        for i, (_, size, path) in enumerate(files):
            used += size
            if used > MAX_DISK or i >= MAX_FILES:
                path.unlink(missing_ok=True)
