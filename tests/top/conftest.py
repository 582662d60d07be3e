"""What the tests of top share."""

from __future__ import annotations

import asyncio

import pytest

from correlator.__main__ import main

from .telling import VARIABLE


@pytest.fixture
def top(capsys, monkeypatch):
    """Run it in a thread of this process; return its status, what it printed, its complaint."""
    monkeypatch.delenv(VARIABLE, raising=False)

    def call(arguments):
        try:
            return main(["top", *arguments])
        except SystemExit as end:
            return end.code

    async def run(*arguments):
        status = await asyncio.to_thread(call, arguments)
        return status, *capsys.readouterr()

    return run
