import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.tools.base import FileChange, ToolError
from core_server.tools.patching import beneath
from core_server.tools.patching.edits import (
    Edit,
    apply_diff,
    apply_edits,
    replace_all,
    split_lines,
    unified_diff,
)
from core_server.tools.patching.hunks import locate
from core_server.tools.patching.patch import apply, plan
from core_server.tools.patching.patch_text import MAX_PATCH_BYTES, UpdateFile, parse


def patch(*lines: str) -> str:
    return "\n".join(("*** Begin Patch", *lines, "*** End Patch"))


def update(root: Path, old: str, *lines: str) -> str:
    """Apply an update to a file of this content; return the new content."""
    file = root / "f.txt"
    file.write_bytes(old.encode())
    apply([str(root)], plan([str(root)], patch("*** Update File: f.txt", *lines)))
    return file.read_bytes().decode()


@pytest.mark.parametrize(
    ("old", "lines", "new"),
    [
        ("a\nb\nc\n", ["@@", " a", "-b", "+B", " c"], "a\nB\nc\n"),
        ("a\nb\nc\n", ["-b", "+B"], "a\nB\nc\n"),  # the first `@@` may be left out
        ("a\nb\n", ["@@", "+top", " a"], "top\na\nb\n"),
        ("a\nb\n", ["@@", " b", "+end"], "a\nb\nend\n"),
        ("a\nb\n", ["@@", "+end"], "a\nb\nend\n"),  # only additions go to the end
        ("x\ndef f\n 1\ndef g\n 1\n", ["@@ def g", "- 1", "+ 2"], "x\ndef f\n 1\ndef g\n 2\n"),
        ("c A\n f\n1\nc B\n f\n1\n", ["@@ c B", "@@  f", "-1", "+2"], "c A\n f\n1\nc B\n f\n2\n"),
        ("h\n1\n", ["@@ h", "+below"], "h\nbelow\n1\n"),
        ("a\nx\na\n", ["@@", "-a", "+A", "*** End of File"], "a\nx\nA\n"),
        ("a\nb\nc\nd\n", ["@@", "-a", "@@", "-c", "+C"], "b\nC\nd\n"),
        ("a  \nb\n", ["@@", " a", "-b", "+B"], "a  \nB\n"),  # blanks at the end do not matter
        ("\ta\nb\n", ["@@", "     a", "-b", "+B"], "\ta\nB\n"),  # nor in front
        ("a\r\nb\r\n", ["@@", " a", "-b", "+B"], "a\r\nB\r\n"),
        ("a\n\nb\n", ["@@", " a", "", "-b", "+B", ""], "a\n\nB\n"),  # an empty line is context
        ("a\nb", ["@@", "-a", "+A"], "A\nb\n"),  # an updated file ends with a newline
        ("a\nb", ["@@", " b", "+c"], "a\nb\nc\n"),
        ("a\nb", ["@@", "-b", "+B"], "a\nB\n"),
        ("", ["@@", "+a"], "a\n"),
        ("a\n", ["@@", "-a"], ""),
        ("ü\n", ["@@", "-ü", "+ö 🙂"], "ö 🙂\n"),
        ("a\u2028b\x0cc\n", ["@@", " a\u2028b\x0cc", "+d"], "a\u2028b\x0cc\nd\n"),
    ],
)
def test_an_update_changes_just_these_lines(
    tmp_path: Path, old: str, lines: list[str], new: str
) -> None:
    assert update(tmp_path, old, *lines) == new


def test_the_plan_shows_content_for_add_and_delete_and_a_diff_for_update(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("old\n")
    (tmp_path / "f.txt").write_text("".join(f"{i}\n" for i in range(1, 21)))
    text = patch(
        "*** Add File: sub/new.txt", "+hello from mock",
        "",
        "*** Delete File: gone.txt",
        "*** Update File: f.txt", "*** Move to: g.txt",
        "@@", "-3", "+three", "@@", "-18", "+eighteen", "+more",
    )  # fmt: skip
    root = str(tmp_path)

    changes = plan([root], text)

    diff = (
        "@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+three\n 4\n 5\n 6\n"
        "@@ -15,6 +15,7 @@\n 15\n 16\n 17\n-18\n+eighteen\n+more\n 19\n 20\n"
    )
    assert changes == (
        FileChange(path=f"{root}/sub/new.txt", kind="add", diff="hello from mock\n"),
        FileChange(path=f"{root}/gone.txt", kind="delete", diff="old\n"),
        FileChange(path=f"{root}/f.txt", kind="update", diff=diff, move_to=f"{root}/g.txt"),
    )
    assert sorted(os.listdir(root)) == ["f.txt", "gone.txt"]  # noqa: PTH208 - names; a plan changes nothing

    apply([root], changes)

    assert sorted(p.name for p in tmp_path.rglob("*")) == ["g.txt", "new.txt", "sub"]
    assert (tmp_path / "sub/new.txt").read_text() == "hello from mock\n"
    assert "\nthree\n" in (tmp_path / "g.txt").read_text()


def test_adding_a_file_that_is_there_is_shown_as_an_update(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("a\nb")
    (change,) = plan([str(tmp_path)], patch("*** Add File: f.txt", "+a", "+c"))
    assert change.kind == "update"
    assert change.diff == "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n"
    apply([str(tmp_path)], [change])
    assert (tmp_path / "f.txt").read_text() == "a\nc\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "a patch begins with the line `*** Begin Patch`"),
        ("*** Begin Patch\n*** Add File: x", "a patch ends with the line `*** End Patch`"),
        (patch(), "the patch changes no file"),
        (patch("what"), "line 2 of the patch, 'what': expected `*** Add File: `"),
        (patch("*** Add File:  ", "+x"), "expected a path"),
        (patch("*** Update File: f.txt"), "the update of f.txt has no hunk"),
        (patch("*** Update File: f.txt", "@@", "*bad"), "line 4 of the patch, '*bad': expected a"),
        (patch("*** Update File: f.txt", "-a", "*** End of File", "-a"), "expected `@@` between"),
        ("x" * (MAX_PATCH_BYTES + 1), "the patch has more than"),
    ],
)
def test_what_is_no_patch_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ToolError) as refused:
        parse(text)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["*** Update File: f.txt", "@@", "-nowhere"], "context not found in {root}/f.txt: 'nowh"),
        (["*** Update File: f.txt", "@@ nohead", "-a"], "context not found in {root}/f.txt: 'noh"),
        (["*** Update File: none.txt", "@@", "-a"], "file not found: {root}/none.txt"),
        (["*** Delete File: no/where.txt"], "file not found: {root}/no/where.txt"),
        (["*** Add File: ../x", "+a"], "path escapes the workspace: ../x"),
        (["*** Add File: sub/../../x", "+a"], "path escapes the workspace: sub/../../x"),
        (["*** Add File: /etc/x", "+a"], "path escapes the workspace: /etc/x"),
        (["*** Add File: .", "+a"], "path escapes the workspace: ."),
        (["*** Add File: a\0b", "+a"], "path is not valid: 'a\\x00b'"),
        (["*** Update File: link", "@@", "-a"], "path escapes the workspace: {root}/link leads"),
        (["*** Add File: out/x", "+a"], "path escapes the workspace: {root}/out/x leads through"),
        (["*** Add File: f.txt/x", "+a"], "{root}/f.txt/x: Not a directory"),
        (["*** Delete File: sub"], "{root}/sub is not a regular file"),
        (["*** Delete File: pipe"], "{root}/pipe is not a regular file"),
        (["*** Delete File: big"], "{root}/big is larger than 16777216 bytes"),
        (["*** Delete File: latin1"], "{root}/latin1 is not UTF-8 text"),
        (["*** Add File: " + "n" * 300, "+a"], "File name too long"),
        (["*** Update File: f.txt", "*** Move to: g.txt"], "{root}/g.txt exists already; delete"),
        (["*** Delete File: f.txt", "*** Add File: f.txt", "+a"], "the patch names a file twice"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    root = tmp_path / "w"
    root.mkdir()
    (root / "f.txt").write_text("a\n")
    (root / "g.txt").write_text("g\n")
    (root / "sub").mkdir()
    (root / "latin1").write_bytes(b"\xe9\n")
    os.mkfifo(root / "pipe")
    with (root / "big").open("wb") as file:
        file.truncate(beneath.MAX_FILE_BYTES + 1)
    (tmp_path / "secret").write_text("a\n")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "out").symlink_to(tmp_path)

    with pytest.raises(ToolError) as refused:
        plan([str(root)], patch(*lines))

    assert message.format(root=root) in str(refused.value)
    assert (tmp_path / "secret").read_text() == "a\n"
    assert not (tmp_path / "x").exists()


def test_a_workspace_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"the workspace .*/gone cannot be opened: No such file"):
        plan([str(tmp_path / "gone")], patch("*** Add File: x", "+a"))


def test_a_workspace_may_itself_be_a_link_and_paths_may_be_absolute(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    root = tmp_path / "link"
    root.symlink_to(real)
    for name in (f"{root}/one", f"{real}/two"):
        changes = plan([str(root)], patch(f"*** Add File: {name}", "+x"))
        apply([str(root)], changes)
    assert sorted(p.name for p in real.iterdir()) == ["one", "two"]


def test_relative_paths_start_at_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    text = patch("*** Add File: f", "+x")
    (change,) = plan([str(tmp_path)], text, cwd=str(tmp_path / "sub"))
    assert change.path == str(tmp_path / "sub/f")
    with pytest.raises(ToolError, match="path escapes the workspace: f"):
        plan([str(tmp_path)], text, cwd="/")


def test_the_second_root_is_as_good_as_the_first(tmp_path: Path) -> None:
    roots = [str(tmp_path / "a"), str(tmp_path / "b")]
    for root in roots:
        Path(root).mkdir()
    apply(roots, plan(roots, patch(f"*** Add File: {roots[1]}/f", "+x")))
    assert (tmp_path / "b/f").read_text() == "x\n"


def test_an_update_keeps_the_mode_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    file.write_text("a\n")
    file.chmod(0o751)
    apply([str(tmp_path)], plan([str(tmp_path)], patch("*** Update File: f.txt", "-a", "+b")))
    assert stat.S_IMODE(file.stat().st_mode) == 0o751


def test_a_move_alone_moves_and_a_move_to_itself_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    root = [str(tmp_path)]
    apply(root, plan(root, patch("*** Update File: f", "*** Move to: f")))
    assert (tmp_path / "f").read_text() == "a\n"
    apply(root, plan(root, patch("*** Update File: f", "*** Move to: d/g")))
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["d", "d/g"]
    assert (tmp_path / "d/g").read_text() == "a\n"


def change_content(root: Path) -> None:
    (root / "f").write_text("changed\n")


def remove(root: Path) -> None:
    (root / "f").unlink()


def make_target(root: Path) -> None:
    (root / "new").write_text("other\n")


@pytest.mark.parametrize(
    ("lines", "meanwhile", "message"),
    [
        (["*** Update File: f", "-a", "+b"], change_content, "context not found in .*: it was ch"),
        (["*** Update File: f", "-a", "+b"], remove, "file not found"),
        (["*** Delete File: f"], change_content, "was changed meanwhile"),
        (["*** Delete File: f"], remove, "file not found"),
        (["*** Add File: new", "+x"], make_target, "/new exists already"),
        (["*** Update File: f", "*** Move to: new"], make_target, "/new exists already"),
    ],
)
def test_a_file_that_is_not_as_it_was_shown_stays_as_it_is(
    tmp_path: Path, lines: list[str], meanwhile: Callable[[Path], None], message: str
) -> None:
    (tmp_path / "f").write_text("a\n")
    changes = plan([str(tmp_path)], patch("*** Add File: d/other", "+x", *lines))
    meanwhile(tmp_path)
    before = {p: p.read_text() for p in tmp_path.iterdir()}

    with pytest.raises(ToolError, match=message):
        apply([str(tmp_path)], changes)

    assert {p: p.read_text() for p in tmp_path.iterdir()} == before  # nor a staged file, nor d


def test_a_failure_in_the_middle_undoes_what_was_done(tmp_path: Path) -> None:
    # Given one directory under two names: the last deletion finds its file gone, after
    # every other change was made.
    root = tmp_path / "root"
    root.mkdir()
    other = tmp_path / "other"
    other.symlink_to(root)
    for name in ("updated", "deleted", "moved"):
        (root / name).write_text("a\n")
    (root / "updated").chmod(0o640)
    text = patch(
        "*** Add File: new/deep/file", "+x",
        "*** Update File: updated", "-a", "+b",
        "*** Delete File: deleted",
        "*** Update File: moved", "*** Move to: elsewhere",
        f"*** Delete File: {other}/deleted",
    )  # fmt: skip
    roots = [str(root), str(other)]
    changes = plan(roots, text)
    before = {p: (p.read_text(), p.stat().st_mode) for p in root.iterdir()}

    with pytest.raises(ToolError, match="deleted: No such file"):
        apply(roots, changes)

    assert {p: (p.read_text(), p.stat().st_mode) for p in root.iterdir()} == before


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    long = "n" * 300
    with pytest.raises(ToolError, match="cannot be made: File name too long"):
        apply([str(tmp_path)], [FileChange(path=f"{tmp_path}/{long}/f", kind="add", diff="x")])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))
    try:
        with pytest.raises(ToolError, match="File too large"):
            apply([str(tmp_path)], plan([str(tmp_path)], patch("*** Add File: d/f", "+12345")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


SWAP = """
import os, sys
root, outside = sys.argv[1:]
number = 0
while True:
    number += 1
    for step in (
        lambda: os.rename(f"{root}/d", f"{root}/old{number}"),
        lambda: os.symlink(outside, f"{root}/d"),
        lambda: os.unlink(f"{root}/d"),
        lambda: os.rename(f"{root}/old{number}", f"{root}/d"),
    ):
        try:
            step()
        except OSError:  # the other side made the directory anew
            pass
"""


def test_a_link_that_is_swapped_in_during_the_race_never_leads_outside(tmp_path: Path) -> None:
    root, outside = tmp_path / "w", tmp_path / "outside"
    for directory in (root / "d", outside):
        directory.mkdir(parents=True)
    refused = done = 0
    give_up_s = time.monotonic() + 20

    with subprocess.Popen([sys.executable, "-c", SWAP, str(root), str(outside)]) as swapper:
        try:
            while (refused < 50 or done < 50) and time.monotonic() < give_up_s:
                try:
                    changes = plan([str(root)], patch(f"*** Add File: d/{done}/f", "+x"))
                    apply([str(root)], changes)
                    done += 1
                except ToolError:
                    refused += 1
        finally:
            swapper.kill()

    assert refused
    assert done
    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "w"
    root.mkdir()
    (tmp_path / "outside").write_text("a\n")
    (root / "f").write_text("a\n")
    changes = plan([str(root)], patch("*** Update File: f", "-a", "+b"))
    (root / "f").unlink()
    (root / "f").symlink_to(tmp_path / "outside")
    with pytest.raises(ToolError, match="leads through a symbolic link"):
        apply([str(root)], changes)
    assert (tmp_path / "outside").read_text() == "a\n"


LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", " \n", "\n", "+x\n", "@@ -1 +1 @@\n"]))
TEXT = st.builds(lambda lines, last: "".join(lines) + last, LINES, st.sampled_from(["", "end"]))


@st.composite
def edited(draw: st.DrawFn) -> tuple[list[str], list[Edit]]:
    """A text and changes of it, cut into pieces anywhere."""
    old = split_lines(draw(TEXT))
    cuts = sorted(draw(st.lists(st.integers(0, len(old)), max_size=8)))
    edits: list[Edit] = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        new = tuple(draw(st.lists(st.sampled_from(["a\n", "new\n"]), max_size=3)))
        if edits and edits[-1].end == start:
            continue
        if end > start or new:
            edits.append(Edit(start, end, new))
    return old, edits


@given(edited())
def test_a_diff_and_then_its_application_give_the_new_text(
    case: tuple[list[str], list[Edit]],
) -> None:
    old, edits = case
    new = apply_edits(old, edits)
    assert apply_diff("f", old, unified_diff(old, edits)) == new


@given(TEXT, TEXT)
def test_any_text_becomes_any_other_by_the_diff_that_was_shown(old: str, new: str) -> None:
    before, after = split_lines(old), split_lines(new)
    edits = replace_all(before, after)
    assert apply_diff("f", before, unified_diff(before, edits)) == after


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.data())
def test_a_patch_however_it_is_cut_into_hunks_gives_the_new_text(
    digits: list[int], data: st.DataObject
) -> None:
    # Lines are unique, so that there is only one place for each hunk.
    old = [f"line {index} {digit}" for index, digit in enumerate(digits)]
    text: list[str] = []
    expected: list[str] = []
    for line in old:
        if data.draw(st.booleans()) or not text:
            text.append("@@")
        kind = data.draw(st.sampled_from(["keep", "drop", "change", "grow"]))
        text.append((" " if kind in {"keep", "grow"} else "-") + line)
        kept = [line] if kind in {"keep", "grow"} else []
        added = [f"new {line}"] if kind in {"change", "grow"} else []
        text += ["+" + new for new in added]
        expected += kept + added
    operation = parse(patch("*** Update File: f", *text))[0]
    lines = [f"{line}\n" for line in old]

    assert isinstance(operation, UpdateFile)
    edits = locate("f", lines, operation.hunks)

    new = apply_diff("f", lines, unified_diff(lines, edits))
    assert new == [f"{line}\n" for line in expected]
