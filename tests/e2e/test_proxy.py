from tests.e2e.proxy import trace_proxy


async def test_a_turn_goes_through_a_real_proxy_and_a_real_core() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        thread = await client.thread()
        turn = await client.turn(thread, "hello there")
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["id"] == turn
        assert done["params"]["turn"]["status"] == "completed"
        assert (await proxy.get("/readyz"))[0] == 200
