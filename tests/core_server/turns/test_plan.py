"""Plans: proposed ones as items of their own, and the engine's list of what is to be done."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from core_server.engines.base import AgentMessage, MessageDone, MessageStarted, TextDelta
from core_server.turns.plan import NOT_IN_PLAN_MODE, PlanText
from tests.core_process import run_turn, start_thread
from tests.core_server.in_process import served
from tests.core_server.scripted_engine import ScriptedEngine, call
from tests.stdio_client import Json, StdioClient

TEXT = "Intro words.\n<proposed_plan>\n# Title\n- one\n</proposed_plan>\nafter"
PLAN_MODE = {"mode": "plan", "settings": {"model": "m1", "developer_instructions": None}}


def _taken_apart(chunks: list[str]) -> dict[str, list[str]]:
    """What was said and what was planned, each plan by itself."""
    text = PlanText()
    pieces = [piece for chunk in chunks for piece in text.feed(chunk)] + text.end()
    said, plans, plan = "", [], ""
    for kind, piece in pieces:
        match kind:
            case "said":
                said += piece
            case "plan":
                plan += piece
            case "planned":
                plans.append(plan)
                plan = ""
    return {"said": [said], "plans": plans}


def test_a_plan_is_taken_out_of_the_text_with_its_tags() -> None:
    found = _taken_apart([TEXT])
    assert found == {"said": ["Intro words.\nafter"], "plans": ["# Title\n- one\n"]}


def test_a_plan_that_is_not_closed_ends_with_the_message() -> None:
    found = _taken_apart(["<proposed_plan>\n- one"])
    assert found == {"said": [""], "plans": ["- one"]}


def test_a_tag_within_a_line_is_text() -> None:
    text = "see <proposed_plan>\nand\n x </proposed_plan>\n"
    assert _taken_apart([text]) == {"said": [text], "plans": []}


_LINES = st.lists(
    st.sampled_from(
        ["<proposed_plan>", " <proposed_plan> ", "</proposed_plan>", "text", "", "<prop", " " * 70]
    ),
    max_size=8,
)


@given(_LINES, st.lists(st.integers(0, 200), max_size=12))
def test_however_the_text_is_cut_the_same_comes_out(lines: list[str], cuts: list[int]) -> None:
    text = "\n".join(lines)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    chunks = [text[a:b] for a, b in itertools.pairwise(places)]
    assert _taken_apart(chunks) == _taken_apart([text])


def _items(client: StdioClient) -> list[tuple[str, str]]:
    return [
        (item["type"], item["text"])
        for message in client.received
        if message.get("method") == "item/completed"
        for item in [message["params"]["item"]]
        if item["type"] in ("plan", "agentMessage")
    ]


def _deltas(client: StdioClient, method: str) -> str:
    return "".join(m["params"]["delta"] for m in client.received if m.get("method") == method)


async def _planning(client: StdioClient) -> str:
    thread_id = await start_thread(client)
    params = {"threadId": thread_id, "collaborationMode": PLAN_MODE}
    await client.request("thread/settings/update", params)
    return thread_id


async def test_a_proposed_plan_is_an_item_and_stays_in_the_history() -> None:
    deltas = [TextDelta("a", TEXT[i : i + 3]) for i in range(0, len(TEXT), 3)]
    engine = ScriptedEngine([MessageStarted("a"), *deltas, MessageDone("a", TEXT)])
    async with served(engine=engine, experimental=True) as client:
        thread_id = await _planning(client)
        await run_turn(client, thread_id, "plan it")
        await run_turn(client, thread_id, "and?")
    assert _items(client)[:2] == [
        ("plan", "# Title\n- one\n"),
        ("agentMessage", "Intro words.\nafter"),
    ]
    assert _deltas(client, "item/plan/delta") == "# Title\n- one\n"
    assert _deltas(client, "item/agentMessage/delta").startswith("Intro words.\nafter")
    said = [entry.text for entry in engine.prompts[1].history if isinstance(entry, AgentMessage)]
    assert said == [
        "<proposed_plan>\n# Title\n- one\n</proposed_plan>\n",
        "Intro words.\nafter",
    ]


async def test_outside_of_plan_mode_it_is_text() -> None:
    engine = ScriptedEngine([MessageDone("a", TEXT)])
    async with served(engine=engine) as client:
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "plan it")
    assert _items(client) == [("agentMessage", TEXT)]


def _lists(client: StdioClient) -> list[Json]:
    return [m["params"] for m in client.received if m.get("method") == "turn/plan/updated"]


def _outputs(engine: ScriptedEngine) -> list[str]:
    return [getattr(entry, "output", "") for entry in engine.prompts[-1].history][-1:]


async def test_the_engines_list_is_told_whole() -> None:
    steps = [{"step": "a", "status": "completed"}, {"step": "b", "status": "in_progress"}]
    engine = ScriptedEngine([call("update_plan", explanation="why", plan=steps)])
    async with served(engine=engine) as client:
        thread_id = await start_thread(client)
        turn = (await run_turn(client, thread_id, "go"))["turn"]
    assert _lists(client) == [
        {
            "threadId": thread_id,
            "turnId": turn["id"],
            "explanation": "why",
            "plan": [
                {"step": "a", "status": "completed"},
                {"step": "b", "status": "inProgress"},
            ],
        }
    ]
    assert _outputs(engine) == ["Plan updated"]


async def test_a_list_that_is_none_and_one_in_plan_mode_are_answered_and_not_told() -> None:
    engine = ScriptedEngine([call("update_plan", plan="x")], [], [call("update_plan", plan=[])])
    async with served(engine=engine, experimental=True) as client:
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "go")
        bad = _outputs(engine)
        planning = await _planning(client)
        await run_turn(client, planning, "go")
    assert bad[0].startswith("failed to parse function arguments: ")
    assert _outputs(engine) == [NOT_IN_PLAN_MODE]
    assert _lists(client) == []


async def test_who_sends_an_image_of_its_own_disk_is_told_that_nobody_sees_it() -> None:
    engine = ScriptedEngine()
    async with served(engine=engine) as client:
        thread_id = await start_thread(client)
        picture = {"type": "localImage", "path": "/a.png"}
        await client.request("turn/start", {"threadId": thread_id, "input": [picture]})
        await client.wait_for("turn/completed")
    told = [m["params"] for m in client.received if m.get("method") == "warning"]
    message = "The image /a.png is not shown to the model, only named."
    assert told == [{"message": message, "threadId": thread_id}]
