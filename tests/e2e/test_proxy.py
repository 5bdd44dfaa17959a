from tests.e2e.proxy import trace_proxy


async def test_a_turn_goes_through_a_real_proxy_and_a_real_core() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        thread = await client.thread()
        turn = await client.turn(thread, "hello there")
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["id"] == turn
        assert done["params"]["turn"]["status"] == "completed"
        assert (await proxy.get("/readyz"))[0] == 200


async def test_a_websocket_and_a_pipe_client_hear_the_same_thread_each_in_its_own_framing() -> (
    None
):
    async with (
        trace_proxy("--listen", "stdio://", "--delivery", "broadcast", pipes=True) as proxy,
        proxy.client() as client,
    ):
        other = await proxy.pipe_client()
        thread = await client.thread()
        await client.turn(thread, "hello there")
        for each in (client, other):
            done = await each.wait_for("turn/completed")
            assert done["params"]["threadId"] == thread
