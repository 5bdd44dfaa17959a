import msgspec
import pytest

from core_server import records
from core_server.engines.base import (
    AgentMessage,
    CompactedHistory,
    ImagePart,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)
from core_server.protocol.items import (
    AddKind,
    AgentMessageItem,
    CommandAction,
    CommandItem,
    CompactionItem,
    FileChangeItem,
    FileUpdate,
    ImageInput,
    LocalImageInput,
    MentionInput,
    ReasoningItem,
    SkillInput,
    TextInput,
    ThreadItem,
    ToolMessageItem,
    UpdateKind,
    UserMessageItem,
)
from core_server.protocol.threads import Goal
from core_server.protocol.turns import TokenCounts, Turn, TurnError
from core_server.protocol.wire import WorkspaceWrite
from core_server.session.thread import Facts, Settings, ThreadMachine

COMMAND = CommandItem("c", "ls", "/w", 1, (CommandAction("ls"),))
ITEMS: list[ThreadItem] = [
    UserMessageItem("u", "mine", (TextInput("a"), ImageInput("https://x/y")), 1, 2),
    ToolMessageItem("f", "mailer", "mail", None, 1, 2),
    AgentMessageItem("a", "text", 1, 2),
    ReasoningItem("r", 1, 2, ("part",)),
    msgspec.structs.replace(COMMAND, status="completed", exit_code=0, completed_at_ms=3),
    FileChangeItem(
        "p",
        (FileUpdate("/w/a", AddKind(), "x"), FileUpdate("/w/b", UpdateKind("/c"), "")),
        1,
        "completed",
    ),
    CompactionItem("k", 1, 2),
]


@pytest.mark.parametrize("item", ITEMS)
def test_an_item_comes_back_as_it_was(item: ThreadItem) -> None:
    row = records.item_row("t", "turn", 3, item)
    assert (row.item_id, row.ordinal, row.kind) == (item.id, 3, "item")
    assert records.item_of(row, running=False) == item


def test_an_item_that_was_never_finished_shows_as_failed_unless_its_turn_runs() -> None:
    row = records.item_row("t", "turn", 0, COMMAND)
    assert records.item_of(row, running=True) == COMMAND
    assert records.item_of(row, running=False) == msgspec.structs.replace(COMMAND, status="failed")


def test_a_thread_comes_back_as_it_was() -> None:
    settings = Settings(
        "m", "/w", "never", WorkspaceWrite(("/x",)), "low", base_instructions="be kind"
    )
    thread = ThreadMachine(Facts("id", 1, "offline", "me", forked_from_id="other"), settings)
    thread.name, thread.preview, thread.archived, thread.listed = "n", "p", True, True
    thread.goal = Goal("id", "o", 1, 2)
    thread.count_tokens("turn", TokenCounts(3, 2, 0, 0, 1, 0), None)
    thread.recency_at_s = thread.updated_at_s = 9
    again = records.thread_of(records.thread_row(thread))
    assert records.thread_row(again) == records.thread_row(thread)
    assert (again.wire(), again.subscribed) == (thread.wire(), False)


def test_a_turn_comes_back_in_the_view_that_is_asked_for() -> None:
    turn = Turn("turn", "turn", (), "full", "failed", TurnError("no"), 1, 2, 3)
    row = records.turn_row("t", 4, turn)
    items = tuple(ITEMS)
    assert records.turn_of(row, items, "full") == msgspec.structs.replace(turn, items=items)
    summary = msgspec.structs.replace(turn, items=(ITEMS[0], ITEMS[2]), items_view="summary")
    assert records.turn_of(row, items, "summary") == summary
    assert records.turn_of(row, items, "notLoaded").items == ()


def test_the_history_of_an_engine_is_read_from_items_and_hidden_entries() -> None:
    call, output = ToolCall("c1", "shell", "{}"), ToolOutput("c1", "done")
    cut = ToolCall("c2", "shell", "{}")
    mine = msgspec.structs.replace(COMMAND, source="userShell", aggregated_output="out")
    entries = [
        records.item_row("t", "turn", 0, ITEMS[0]),
        records.hidden_row("t", "turn", 1, call),
        records.item_row("t", "turn", 2, ITEMS[1]),
        records.hidden_row("t", "turn", 3, output),
        records.item_row("t", "turn", 4, ITEMS[2]),
        records.hidden_row("t", "turn", 5, cut),
        records.hidden_row("t", "turn", 6, CompactedHistory("short")),
        records.item_row("t", "turn", 7, mine),
        records.item_row("t", "turn", 8, ITEMS[3]),
    ]
    assert records.history_of(tuple(entries)) == [
        UserMessage((TextPart("a"), ImagePart("https://x/y"))),
        call,
        output,
        UserMessage((TextPart("Message of the tool mailer, not of the user:\nmail"),)),
        AgentMessage("text"),
        CompactedHistory("short"),
        UserMessage((TextPart("I ran a command myself: ls\nout"),)),
    ]


def test_other_kinds_of_input_are_named_to_the_engine() -> None:
    content = (LocalImageInput("/a.png"), SkillInput("s", "/s"), MentionInput("m", "/m"))
    message = records.message_of(UserMessageItem("u", None, content, 1))
    assert message.parts == (TextPart("[image: /a.png]"), TextPart("[s: /s]"), TextPart("[m: /m]"))
    structured = ToolMessageItem("f", "x", (msgspec.Raw(b'{"type":"input_text"}'),), None, 1)
    assert records.preview_of(structured) == "[x]"
    assert records.message_of(structured).parts == (
        TextPart('Message of the tool x, not of the user:\n[{"type":"input_text"}]'),
    )


def test_the_preview_is_the_first_text() -> None:
    content = (ImageInput("u"), TextInput("first"), TextInput("second"))
    assert records.preview_of(UserMessageItem("u", None, content, 1)) == "first"
    assert records.preview_of(UserMessageItem("u", None, (), 1)) == ""
