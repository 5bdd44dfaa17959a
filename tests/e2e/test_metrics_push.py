"""The numbers of `/metrics`, pushed by OTLP when the environment asks for it."""

import signal

from aiohttp import web

from tests.e2e.proxy import trace_proxy


async def test_metrics_arrive_at_a_collector_and_the_last_ones_at_the_end() -> None:
    bodies: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/metrics", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    env = {
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:{port}",
    }
    try:
        async with trace_proxy(env=env) as proxy:
            async with proxy.client() as client:
                await client.request("model/list", {})
            proxy.signal(signal.SIGTERM)
            assert await proxy.exit_code() == 0
        assert any(b"rpc.server.call.duration" in body for body in bodies)
        assert any(b"model/list" in body for body in bodies)
    finally:
        await runner.cleanup()


async def test_an_unknown_metrics_exporter_is_a_configuration_mistake() -> None:
    async with trace_proxy(env={"OTEL_METRICS_EXPORTER": "pigeons"}, wait=False) as proxy:
        assert await proxy.exit_code() == 2
