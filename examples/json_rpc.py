"""JSON-RPC 2.0 over a WebSocket: the pendings of a connection are one group, and share its fate.

It starts a server of its own, whose method `drop` hangs up. Run: python -m examples.json_rpc
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

from correlator import Correlator, Group, RequestRejected

Id = tuple[str, int]  # the connection's name, and the number that the wire carries
Rpc = Correlator[Id, Any]


class Connection:
    """A JSON-RPC client on one WebSocket.

    Any number of connections may share a correlator: what is pending on this one fails when it
    drops, and nothing else does.
    """

    def __init__(self, websocket: ClientWebSocketResponse, group: Group[Id, Any], rpc: Rpc) -> None:
        self._websocket = websocket
        self._group = group
        self._rpc = rpc
        self._numbers = itertools.count(1)

    async def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Call a method and return its result.

        Raises:
            RequestRejected: the server answered with an error.
            ConnectionError: the connection dropped before the answer.
            RequestTimeout: no answer came in time.
        """

        async def send(request_id: Id) -> None:
            call = {"jsonrpc": "2.0", "id": request_id[1], "method": method, "params": params}
            await self._websocket.send_json(call)

        # With the connection in the key, what comes on one never answers what was asked on another.
        request_id = (self._group.name, next(self._numbers))
        return await self._group.correlate(request_id, send=send, timeout=timeout)

    async def read(self) -> None:
        """Hand out the answers until the connection ends, and then fail those that got none."""
        try:
            async for message in self._websocket:
                if message.type is WSMsgType.TEXT:
                    self._answer(message.json())
        finally:
            self._group.close(ConnectionError("the connection dropped"))

    def _answer(self, answer: Any) -> None:
        # Only an int can be an id of ours: `True` equals 1, and a list cannot even be looked up.
        if not isinstance(answer, dict) or type(answer.get("id")) is not int:
            return
        request_id = (self._group.name, answer["id"])
        if isinstance(answer.get("error"), dict):
            code = answer["error"].get("code")
            self._rpc.reject(request_id, RequestRejected(f"JSON-RPC error {code}"))
        else:
            self._rpc.resolve(request_id, answer.get("result"))


async def serve(request: web.Request) -> web.WebSocketResponse:
    """Serve the methods `add`, `hang` and `drop`."""
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for message in websocket:
        call = message.json()
        answer = {"jsonrpc": "2.0", "id": call["id"]}
        if call["method"] == "drop":
            break
        if call["method"] == "add":
            await websocket.send_json({**answer, "result": sum(call["params"])})
        elif call["method"] != "hang":
            await websocket.send_json({**answer, "error": {"code": -32601}})
    return websocket


async def main() -> None:
    """Show that a dropped connection fails exactly the calls that were pending on it."""
    app = web.Application()
    app.add_routes([web.get("/rpc", serve)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/rpc"

    async with ClientSession() as session, Rpc(timeout=1.0) as rpc:
        async with session.ws_connect(url) as first, session.ws_connect(url) as second:
            one = Connection(first, rpc.group("one"), rpc)
            two = Connection(second, rpc.group("two"), rpc)
            readers = [asyncio.create_task(each.read()) for each in (one, two)]

            print("1 + 2 =", await one.call("add", 1, 2))
            calls = [one.call("hang"), one.call("drop"), two.call("hang"), two.call("nonsense")]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                print(f"{type(result).__name__}: {result}")
            print("3 + 4 =", await two.call("add", 3, 4))
        await asyncio.gather(*readers)
        print(f"left behind: {len(rpc)}")
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
