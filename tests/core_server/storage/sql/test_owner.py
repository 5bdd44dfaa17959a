"""Is the process that owns a thread still there?"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core_server.storage.sql import owner
from core_server.storage.sql.owner import started_ticks, this_process


def test_this_process_lives() -> None:
    me = this_process()

    assert me.started_ticks > 0
    assert not me.is_dead(seen_from=this_process())
    assert str(me) == f"process {me.pid} on {me.host}"


def test_each_owner_is_new() -> None:
    assert this_process().owner_id != this_process().owner_id


def test_a_process_is_dead_when_it_was_killed_even_if_nobody_reaped_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ticks = started_ticks(child.pid)
        assert ticks is not None
        of_child = replace(this_process(), pid=child.pid, started_ticks=ticks)
        assert not of_child.is_dead(seen_from=this_process())

        child.kill()
        subprocess.run(
            ["sh", "-c", f"while ! grep -q '^State:.Z' /proc/{child.pid}/status; do :; done"],
            timeout=10,
            check=True,
        )

        assert of_child.is_dead(seen_from=this_process())
    assert of_child.is_dead(seen_from=this_process())


def test_without_proc_nobody_is_known_to_be_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "_PROC", tmp_path)

    me = this_process()

    assert (me.boot_id, me.pid_space, me.started_ticks) == ("", "", 0)
    assert not replace(me, pid=2**22 + 1).is_dead(seen_from=this_process())


def test_a_process_id_that_is_used_again_is_another_process() -> None:
    me = this_process()

    assert replace(me, started_ticks=me.started_ticks - 1).is_dead(seen_from=me)


def test_an_earlier_boot_of_our_machine_is_over() -> None:
    me = this_process()

    assert replace(me, boot_id="an earlier boot").is_dead(seen_from=me)


def test_two_hosts_of_one_name_that_nobody_vouched_for_are_two() -> None:
    me = this_process(host_id="")
    other = replace(me, owner_id="other", boot_id="another", pid=2**22 + 1)

    assert other.host == me.host
    assert not other.is_dead(seen_from=me)


def test_a_configured_host_id_is_believed() -> None:
    me = this_process(host_id="pod-0", url="ws://pod-0:4500")

    assert (me.host_id, me.url) == ("pod-0", "ws://pod-0:4500")
    assert replace(me, owner_id="before", boot_id="before").is_dead(seen_from=me)


def test_a_name_that_was_given_to_one_host_alone_tells_of_its_container_before() -> None:
    me = this_process(host_id="pod-0")
    before = replace(me, owner_id="before", pid_space="pid:[the container before]")

    assert before.is_dead(seen_from=me, named=True)
    assert not before.is_dead(seen_from=me)
    assert not replace(before, host_id="pod-1").is_dead(seen_from=me, named=True)
    unnamed = this_process(host_id="")
    assert not replace(unnamed, pid_space="another").is_dead(seen_from=unnamed, named=True)


def test_nothing_is_known_of_another_machine_or_container_or_without_proc() -> None:
    me = this_process()
    gone = replace(me, pid=2**22 + 1)

    assert gone.is_dead(seen_from=me)
    assert not replace(gone, boot_id="another", host_id="elsewhere").is_dead(seen_from=me)
    assert not replace(gone, pid_space="pid:[another container]").is_dead(seen_from=me)
    assert not replace(gone, boot_id="").is_dead(seen_from=me)
