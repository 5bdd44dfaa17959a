# ruff: noqa: ASYNC220, ASYNC240 - nothing else runs on the loop of a test
import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import msgspec
import pytest

from core_server.tools.base import Output, ToolError
from core_server.tools.process.command import run, start
from core_server.tools.process.descendants import descendants
from tests.core_server.tools.processes import (
    PATIENCE_S,
    alive,
    command,
    finish,
    marker,
    running,
    stops_a_fork_bomb,
    text,
    until_alive,
    until_gone,
)


async def test_output_of_both_streams_and_the_exit_code_come_back() -> None:
    outcome, outputs = await finish(command("sh", "-c", "echo out; echo err >&2; exit 3"))

    assert (outcome.exit_code, outcome.timed_out, outcome.truncated) == (3, False, False)
    assert (text(outputs), text(outputs, "stderr")) == ("out\n", "err\n")
    assert 0 < outcome.duration_s < PATIENCE_S


async def test_output_comes_while_the_command_runs() -> None:
    what = msgspec.structs.replace(command("cat"), stdin=True)
    async with running(what) as process:
        await process.write(b"first\n")
        assert await anext(process) == Output("stdout", b"first\n")
        await process.write(b"second\n")
        assert await anext(process) == Output("stdout", b"second\n")
        await process.close_stdin()
        assert [output async for output in process] == []
        assert (await process.wait()).exit_code == 0


async def test_a_command_without_stdin_sees_its_end_at_once_and_cannot_be_written_to() -> None:
    async with running(command("cat")) as process:
        with pytest.raises(ToolError, match="stdin of the command is closed"):
            await process.write(b"x")
        assert (await process.wait()).exit_code == 0


async def test_more_input_than_the_pipe_holds_waits_for_the_command() -> None:
    what = msgspec.structs.replace(command("wc", "-c"), stdin=True)
    async with running(what) as process:
        await process.write(b"x" * 1_000_000)
        await process.close_stdin()
        assert text([output async for output in process]).strip() == "1000000"


async def test_writing_to_a_command_that_closed_its_stdin_is_an_error() -> None:
    what = msgspec.structs.replace(command("sh", "-c", "exec <&-; echo; sleep 60"), stdin=True)
    async with running(what) as process:
        await anext(process)
        with pytest.raises(ToolError, match="stdin of the command is closed"):
            await process.write(b"x" * 1_000_000)


async def test_a_writer_that_waits_is_woken_when_the_command_ends() -> None:
    what = msgspec.structs.replace(command("sleep", "60"), stdin=True)
    async with running(what) as process, asyncio.TaskGroup() as tasks:
        tasks.create_task(_fails_to_write(process.write(b"x" * 1_000_000)))
        await asyncio.sleep(0)
        process.terminate()
        assert (await process.wait()).exit_code == 128 + signal.SIGTERM


async def _fails_to_write(writing: object) -> None:
    assert asyncio.iscoroutine(writing)
    with pytest.raises(ToolError, match="stdin of the command is closed"):
        await writing


async def test_a_cancelled_writer_leaves_the_others_alone() -> None:
    what = msgspec.structs.replace(command("sleep", "60"), stdin=True)
    async with running(what) as process:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await process.write(b"x" * 1_000_000)
        await process.close_stdin()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("/nonexistent",), "No such file or directory (os error 2)"),
        (("nonexistent-program",), "No such file or directory (os error 2)"),
        (("/etc/passwd",), "Permission denied (os error 13)"),
        (("/etc",), "Permission denied (os error 13)"),
    ],
)
async def test_a_program_that_cannot_run_is_refused_with_the_text_of_the_reference(
    argv: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ToolError) as refused:
        await finish(command(*argv))
    assert str(refused.value) == f"failed to spawn command: {message}"


async def test_a_directory_that_is_not_there_is_refused() -> None:
    with pytest.raises(ToolError, match="No such file or directory"):
        await finish(command("ls", cwd="/nonexistent"))


async def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("neither binary nor script")
    script.chmod(0o755)
    with pytest.raises(ToolError, match=r"failed to spawn command: Exec format error"):
        await finish(command(str(script)))


async def test_a_command_without_words_is_refused() -> None:
    with pytest.raises(ToolError, match="command must not be empty"):
        await finish(command())


@pytest.mark.parametrize(
    ("argv", "cwd"), [(("echo", "a\0b"), "/"), (("echo",), "/a\0b"), (("echo", "\ud800"), "/")]
)
async def test_text_that_no_program_can_be_given_is_refused(
    argv: tuple[str, ...], cwd: str
) -> None:
    for sandbox in ("none", "read-only"):
        what = msgspec.structs.replace(command(*argv, cwd=cwd), sandbox=sandbox)
        with pytest.raises(ToolError, match="failed to spawn command: "):
            await finish(what)


async def test_too_many_words_are_refused() -> None:
    with pytest.raises(ToolError, match=r"Argument list too long \(os error 7\)"):
        await finish(command("echo", "x" * 4_000_000))


async def test_a_descriptor_that_was_given_away_does_not_hold_up_the_end() -> None:
    # Given a command that hands its stdout to a process that is none of its own.
    script = (
        "import array, os, socket, sys; s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]); s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,"
        " array.array('i', [1]))]); print('given')"
    )
    address = f"\0{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        argv = (sys.executable, "-c", script.replace("sys.argv[1]", repr(address)))
        async with running(command(*argv)) as process:
            with (await asyncio.to_thread(listener.accept))[0] as peer:
                _, fds, _, _ = socket.recv_fds(peer, 1, 1)
            assert text([output async for output in process]) == "given\n"
            assert (await process.wait()).exit_code == 0
        os.close(fds[0])


async def test_no_descriptor_left_is_an_error_and_leaks_none() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.dup(0) for _ in range(30)]  # fills the gaps: the next one is the highest
    used = open_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 4, hard))
    try:
        with pytest.raises(ToolError, match=r"failed to spawn command: Too many open files"):
            await finish(command("true"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        leaked = open_descriptors() - used
        for fd in held:
            os.close(fd)
    assert leaked == 0


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_timeout_is_exit_code_124() -> None:
    outcome, _ = await finish(command("sleep", "60", timeout_s=0.2))
    assert (outcome.exit_code, outcome.timed_out) == (124, True)
    assert outcome.duration_s < 5


async def test_a_command_that_ignores_term_is_killed_after_the_grace() -> None:
    outcome, outputs = await finish(
        command("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done", timeout_s=1)
    )
    assert (outcome.exit_code, text(outputs)) == (124, "ready\n")


async def test_terminate_lets_the_command_clean_up() -> None:
    script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    async with running(command("sh", "-c", script)) as process:
        assert await anext(process) == Output("stdout", b"ready\n")
        process.terminate()
        assert text([output async for output in process]) == "bye\n"
        assert (await process.wait()).exit_code == 7
        process.terminate()  # and once more, when it has ended: nothing happens


async def test_a_signal_is_128_and_its_number() -> None:
    outcome, _ = await finish(command("sh", "-c", "kill -USR1 $$"))
    assert outcome.exit_code == 128 + signal.SIGUSR1


async def test_a_gigabyte_of_output_is_read_and_dropped_after_the_cap() -> None:
    what = command("sh", "-c", "yes | head -c 1000000000; echo done >&2", output_cap_bytes=100_000)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    outcome, outputs = await finish(what)

    assert (outcome.exit_code, outcome.truncated) == (0, True)
    assert sum(len(output.data) for output in outputs) == 100_000
    assert [output.cap_reached for output in outputs].count(True) == 1
    assert outputs[-1].cap_reached
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024


async def test_a_slow_consumer_slows_the_command_and_loses_nothing() -> None:
    what = command("sh", "-c", "yes | head -c 3000000", output_cap_bytes=None)
    async with running(what) as process:
        first = await anext(process)
        for _ in range(1000):  # the loop runs, and would read all of it if it were allowed
            await asyncio.sleep(0)
        rest = [output async for output in process]
    assert len(first.data) + sum(len(output.data) for output in rest) == 3_000_000


async def test_a_consumer_that_is_stuck_does_not_hold_up_the_timeout() -> None:
    what = command("yes", timeout_s=0.2, output_cap_bytes=None)
    async with running(what) as process:
        assert (await process.wait()).exit_code == 124


async def test_run_hands_over_each_piece() -> None:
    taken: list[Output] = []

    async def take(output: Output) -> None:
        taken.append(output)

    outcome = await run(command("echo", "hi"), take)
    assert (outcome.exit_code, taken) == (0, [Output("stdout", b"hi\n")])


async def test_a_terminal_has_a_size_that_can_be_changed() -> None:
    script = "trap 'stty size; exit' WINCH; stty size; while :; do sleep 0.05; done"
    what = msgspec.structs.replace(command("sh", "-c", script), tty=(100, 40))
    async with running(what) as process:
        assert await anext(process) == Output("stdout", b"40 100\r\n")
        process.resize(120, 50)
        assert text([output async for output in process]) == "50 120\r\n"
        await process.wait()
        with pytest.raises(ToolError, match="the command has ended"):
            process.resize(1, 1)


async def test_a_terminal_takes_input_and_its_end() -> None:
    what = msgspec.structs.replace(command("cat"), tty=(80, 24))
    async with running(what) as process:
        await process.write(b"hi\n")
        await process.close_stdin()
        assert text([output async for output in process]) == "hi\r\nhi\r\n"
        assert (await process.wait()).exit_code == 0


async def test_the_command_controls_its_terminal() -> None:
    what = msgspec.structs.replace(command("sh", "-c", "echo hi > /dev/tty"), tty=(80, 24))
    outcome, outputs = await finish(what)
    assert (outcome.exit_code, text(outputs)) == (0, "hi\r\n")


async def test_resize_refuses_what_is_no_size_and_no_terminal() -> None:
    async with running(command("sleep", "60")) as process:
        with pytest.raises(ToolError, match="no terminal"):
            process.resize(80, 24)
    what = msgspec.structs.replace(command("sleep", "60"), tty=(80, 24))
    async with running(what) as process:
        with pytest.raises(ToolError, match="0 columns and 24 rows"):
            process.resize(0, 24)


async def test_the_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "canary")
    monkeypatch.setenv("LC_CTYPE", "C.UTF-8")
    monkeypatch.setenv("TZ", "UTC")
    what = msgspec.structs.replace(
        command("/usr/bin/env"), environment={"TRACEPARENT": "00-1", "TZ": None}
    )
    _, outputs = await finish(what)
    seen = dict(line.split("=", 1) for line in text(outputs).splitlines())
    assert seen["TRACEPARENT"] == "00-1"
    assert seen["LC_CTYPE"] == "C.UTF-8"
    assert not {"SECRET_TOKEN", "TZ"} & set(seen)


async def test_no_descriptor_of_the_core_is_seen_by_the_command() -> None:
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)  # noqa: FBT003 - its only spelling
    try:
        _, outputs = await finish(command("ls", "/proc/self/fd"))
    finally:
        os.close(read_fd)
        os.close(write_fd)
    assert text(outputs).split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


async def test_signals_that_the_core_ignores_or_blocks_are_clean_in_the_command() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        _, outputs = await finish(command("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGUSR1, before)
    masks = [int(line.split()[1], 16) for line in text(outputs).splitlines()]
    the_c_librarys_own = 1 << 31 | 1 << 32  # 32 and 33: no program can set them
    assert [mask & ~the_c_librarys_own for mask in masks] == [0, 0]


async def test_a_command_is_in_a_session_of_its_own() -> None:
    async with running(command("sleep", "60")) as process:
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
        assert repr(process) == f"<Process {process.pid} running argv='sleep'>"


@pytest.mark.parametrize(
    "background",
    ["sleep {m} &", "(setsid sleep {m} &)", "(setsid sh -c 'setsid sleep {m} & exit' &)"],
)
async def test_what_a_command_leaves_in_the_background_ends_with_it(background: str) -> None:
    number = marker()
    outcome, outputs = await finish(
        command("sh", "-c", background.format(m=number) + "\nsleep 0.1; echo done")
    )
    assert (outcome.exit_code, text(outputs)) == (0, "done\n")
    assert alive(number) == []


async def test_cancelling_kills_every_descendant_before_it_returns() -> None:
    number = marker()
    script = f"sleep {number} & (setsid sleep {number} &) ; sleep {number}"

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(finish(command("sh", "-c", script)))
        await until_alive(number, 4)
        task.cancel()

    assert task.cancelled()
    assert alive(number) == []


async def test_a_second_cancel_during_the_cleanup_leaves_nobody_either() -> None:
    number = marker()
    others = set(descendants(os.getpid()))  # of tests before this one
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(finish(command("sleep", number)))
        await until_alive(number, 1)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
    await until_gone(number, within_s=PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while set(descendants(os.getpid())) - others:  # noqa: ASYNC110 - reaped in a callback
            await asyncio.sleep(0.01)


async def test_a_killed_reaper_takes_the_command_with_it() -> None:
    number = marker()
    async with running(command("sh", "-c", f"sleep {number} & sleep {number}")) as process:
        await until_alive(number, 3)
        status = Path(f"/proc/{process.pid}/stat").read_text()
        reaper_pid = int(status.rpartition(") ")[2].split()[1])
        os.kill(reaper_pid, signal.SIGKILL)
        assert (await process.wait()).exit_code == 128 + signal.SIGKILL
    await until_gone(number, within_s=PATIENCE_S)


async def test_a_reaper_that_does_not_answer_is_killed() -> None:
    number = marker()
    async with running(command("sleep", number)) as process:
        status = Path(f"/proc/{process.pid}/stat").read_text()
        reaper_pid = int(status.rpartition(") ")[2].split()[1])
        os.kill(reaper_pid, signal.SIGSTOP)
    await until_gone(number, within_s=PATIENCE_S)


async def test_commands_run_beside_threads_and_each_other() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            done = [tasks.create_task(finish(command("echo", str(i)))) for i in range(20)]
    finally:
        stop.set()
        thread.join()
    assert [text(task.result()[1]) for task in done] == [f"{i}\n" for i in range(20)]


async def test_nothing_is_leaked_by_a_command() -> None:
    await finish(command("true"))
    before, others = open_descriptors(), set(descendants(os.getpid()))
    for _ in range(3):
        await finish(command("true"))
    assert open_descriptors() == before
    assert set(descendants(os.getpid())) <= others  # of tests before this one


KILLED = """
import asyncio, sys
from core_server.tools.base import Command
from core_server.tools.process.command import start

async def main():
    command = Command(argv=("sh", "-c", sys.argv[1]), cwd="/", sandbox=sys.argv[2])
    async with start(command) as process:
        await process.wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("sandbox", ["none", "read-only"])
async def test_kill_9_of_the_core_leaves_no_descendant(sandbox: str) -> None:
    number = marker()
    script = f"sleep {number} & (setsid sh -c 'setsid sleep {number} & exit' &) ; sleep {number}"
    path = os.pathsep.join(sys.path)  # wherever this suite finds the project
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, script, sandbox], env={**os.environ, "PYTHONPATH": path}
    ) as core:
        try:
            await until_alive(number, 5)
        finally:
            core.kill()
    await until_gone(number, within_s=3)


REAPER_KILLED = """
import asyncio, os, signal, subprocess, sys
from pathlib import Path
from core_server.tools.base import Command
from core_server.tools.process.command import start

async def main():
    command = Command(argv=("sh", "-c", sys.argv[1]), cwd="/", sandbox="none")
    async with start(command) as process:
        await anext(process)
        status = Path(f"/proc/{process.pid}/stat").read_text()
        os.kill(int(status.rpartition(") ")[2].split()[1]), signal.SIGKILL)
        await process.wait()

asyncio.run(main())
"""


async def test_what_a_shell_started_before_it_became_the_core_is_not_the_cores_to_end() -> None:
    ours, theirs = marker(), marker()
    script = f"(setsid sleep {ours} &) ; echo up; sleep {ours}"
    before = f'setsid sleep {theirs} & exec "$@"'
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        ["sh", "-c", before, "sh", sys.executable, "-c", REAPER_KILLED, script],
        env={**os.environ, "PYTHONPATH": path},
    ) as core:
        assert core.wait(timeout=PATIENCE_S) == 0
    await until_gone(ours, within_s=PATIENCE_S)
    left = alive(theirs)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == 1


async def test_a_fork_bomb_is_stopped_without_a_sandbox_too() -> None:
    await stops_a_fork_bomb(command("true", timeout_s=10), None)


async def test_start_kills_when_its_block_fails() -> None:
    number = marker()
    with pytest.raises(ZeroDivisionError):
        async with start(command("sleep", number)):
            _ = 1 / 0
    assert alive(number) == []
