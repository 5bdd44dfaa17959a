"""A websocket echo on aiohttp and uvloop, and nothing else: what many connections cost anybody.

    python tests/load/bare_echo.py PORT

`scale` sets the proxy's growth beside this one's: sockets that are cold in the caches, and
system calls that carry one message instead of many, are not the proxy's doing.
"""

import asyncio
import gc
import sys

import uvloop
from aiohttp import web


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Send back what comes."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    runner = web.ServerRunner(web.Server(echo, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    gc.freeze()  # as the proxy does
    sys.stderr.write("proxy.ready\n")  # what `bench.process` waits for
    sys.stderr.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
