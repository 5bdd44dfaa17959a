"""Subagents of the real codex: their turns below the tool that spawned them, in one trace.

Runs with the packaged codex and with the one on PATH, whichever there are; the model is a
scripted endpoint that spawns an agent, waits for it, and goes on.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.collector import CollectedSpan, Collector
from tests.compat.real_codex import app_server, codex_home, codex_path
from tests.e2e.traces import Scene, environment, traced
from tests.responses_api import Call, Reply, ResponsesApi, Text
from tests.responses_events import Json, last_input

SLOW_S = 60
V1, V2 = "multi_agent_v1", "collaboration"


def commands() -> list[list[str]]:
    """The codex programs that this machine has."""
    found = [app_server()] if codex_path() is not None else []
    on_path = shutil.which("codex")
    return [*found, [on_path, "app-server", "--listen", "stdio://"]] if on_path else found


def version(command: list[str]) -> str:
    """Its version, as it says it."""
    told = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True)
    return told.stdout.strip()


needs_codex = pytest.mark.skipif(not commands(), reason="no codex: pip install openai-codex")


def call(namespace: str, name: str, **arguments: object) -> Reply:
    return Reply((Call(name, json.dumps(arguments), namespace=namespace),))


def last(body: Json) -> tuple[str, str]:
    """Kind and text of the last input, the output of a tool included."""
    kind, text = last_input(body)
    items = body["input"]
    assert isinstance(items, list)
    output = items[-1].get("output", text)
    return kind, output if isinstance(output, str) else json.dumps(output)


def script_v1(body: Json) -> Reply:
    """Spawn, wait for who was spawned, say so; a child only says a word."""
    kind, text = last(body)
    if kind != "function_call_output":
        if text == "PARENT":
            return call(V1, "spawn_agent", message="CHILD task one")
        return Reply((Text("child says ok"),), delay_s=0.02)
    try:
        output = json.loads(text)
    except ValueError:
        return Reply((Text(text),))
    if "agent_id" in output:
        return call(V1, "wait_agent", targets=[output["agent_id"]], timeout_ms=30_000)
    return Reply((Text("all done"),))


def script_v2(body: Json) -> Reply:
    """The same in the words of the second kind of agents."""
    kind, text = last(body)
    if kind == "function_call_output":
        if "task_name" in text:
            return call(V2, "wait_agent", timeout_ms=30_000)
        return Reply((Text("all done"),))
    if text == "PARENT":
        return call(V2, "spawn_agent", task_name="kid", message="CHILD task one")
    return Reply((Text("child says ok"),), delay_s=0.02)


async def run_parent(scene: Scene) -> list[CollectedSpan]:
    """Run a turn with a subagent; the spans of its trace, once both turns are over."""
    await scene.begin_turn("PARENT")
    await scene.client.wait(
        lambda each: (
            each.get("method") == "turn/completed" and each["params"]["threadId"] == scene.thread
        ),
        timeout_s=SLOW_S,
    )
    await scene.collector.wait_for(
        lambda _: sum(each.name.startswith("invoke_agent") for each in scene.spans()) == 2,
        timeout_s=SLOW_S,
    )
    return scene.spans()


def tokens(span: CollectedSpan, which: str = "gen_ai.usage.") -> tuple[int, int]:
    name = span.attributes.get
    return name(f"{which}input_tokens", 0), name(f"{which}output_tokens", 0)


def by_thread(scene: Scene, spans: list[CollectedSpan]) -> tuple[CollectedSpan, CollectedSpan]:
    """The turn of the parent, and that of the child."""
    turns = [each for each in spans if each.name.startswith("invoke_agent")]
    own = [each.attributes["gen_ai.conversation.id"] == scene.thread for each in turns]
    return turns[own.index(True)], turns[own.index(False)]


@needs_codex
@pytest.mark.parametrize("command", commands(), ids=version)
async def test_a_childs_turn_is_below_the_tool_that_spawned_it_and_its_tokens_are_the_roots(
    tmp_path: Path, command: list[str]
) -> None:
    async with ResponsesApi(script_v1) as api, Collector() as collector:
        env = {**codex_home(tmp_path, api.url), **environment(collector.url)}
        async with (
            traced(core=command, env=env, collector=collector) as stage,
            stage.scene(experimental=True) as scene,
        ):
            spans = await run_parent(scene)
        asked = len(api.seen)
    parent, child = by_thread(scene, spans)
    (spawn,) = [each for each in spans if each.name == "execute_tool spawnAgent"]
    (wait,) = [each for each in spans if each.name == "execute_tool wait"]
    assert child.parent_span_id == spawn.span_id
    assert {spawn.parent_span_id, wait.parent_span_id} == {parent.span_id}
    assert child.attributes["gen_ai.provider.name"] == parent.attributes["gen_ai.provider.name"]
    assert child.attributes["gen_ai.request.model"] == parent.attributes["gen_ai.request.model"]
    assert child.attributes["trace_proxy.client.name"] == "e2e"
    assert asked == 4
    assert tokens(child) == (100, 20)
    assert tokens(parent) == (400, 80), "its own three and the child's one"
    assert tokens(parent, "trace_proxy.turn.subagent_") == (100, 20)
    assert parent.attributes["trace_proxy.turn.subagents"] == 1


@needs_codex
@pytest.mark.parametrize("command", commands(), ids=version)
async def test_agents_of_the_second_kind_have_names(tmp_path: Path, command: list[str]) -> None:
    async with ResponsesApi(script_v2) as api, Collector() as collector:
        env = {**codex_home(tmp_path, api.url), **environment(collector.url)}
        config = Path(env["CODEX_HOME"]) / "config.toml"
        config.write_text(config.read_text() + "\n[features.multi_agent_v2]\nenabled = true\n")
        async with (
            traced(core=command, env=env, collector=collector) as stage,
            stage.scene(experimental=True) as scene,
        ):
            spans = await run_parent(scene)
    parent, child = by_thread(scene, spans)
    (spawn,) = [each for each in spans if each.name == "execute_tool spawn_agent"]
    assert (spawn.parent_span_id, child.parent_span_id) == (parent.span_id, spawn.span_id)
    assert child.name == "invoke_agent kid"
    assert child.attributes["gen_ai.agent.name"] == "kid"
    assert parent.attributes["trace_proxy.turn.subagents"] == 1
