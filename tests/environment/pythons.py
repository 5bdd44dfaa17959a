"""Install and smoke-test both programs under each Python 3.N that is there, from 3.11 on.

    python tests/environment/pythons.py [PYTHON…]

Without arguments it looks for `python3.N` in the PATH, in the folders of PATH's real
programs and below PYENV_ROOT, and takes the newest of each 3.N. Each Python gets a fresh environment with the project
installed from this folder as users install it, and runs `smoke.py`. Exits with 1 when one
fails. CI runs it (see `.ci/run`); a failure names the Python and shows its output.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMOKE = Path(__file__).with_name("smoke.py")
OLDEST = (3, 11)
TIMEOUT_S = 600


def main(asked: list[str]) -> int:
    """Try each Python; returns the exit code."""
    found: dict[tuple[int, ...], str] = {}
    for path in asked or candidates():
        if version := version_of(path):
            found[version] = path
    newest = {version[:2]: (version, found[version]) for version in sorted(found)}
    if not newest:
        sys.stderr.write("no Python 3.11 or newer was found\n")
        return 1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return 0 if all(list(pool.map(lambda each: works(*each), newest.values()))) else 1


def candidates() -> Iterator[str]:
    """Paths of programs that may be Pythons, the least likely first: later ones win."""
    folders = [Path(each) for each in os.environ.get("PATH", "").split(os.pathsep) if each]
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    for root in roots:
        folders += sorted(root.glob("*/bin"))
    for folder in folders:
        with contextlib.suppress(OSError):
            yield from map(str, sorted(folder.glob("python3.[0-9]*")))


def version_of(path: str) -> tuple[int, ...]:
    """Its full version where it can be used: new enough, and able to make environments."""
    code = "import ensurepip,sys;print(*sys.version_info[:3],sep='.')"
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [path, "-c", code], capture_output=True, text=True, check=False, timeout=30
        )
        parts = done.stdout.strip().split(".")
        numbers = tuple(map(int, parts)) if all(map(str.isdigit, parts)) else ()
        if done.returncode == 0 and numbers >= OLDEST:
            return numbers
    return ()


def works(numbers: tuple[int, ...], path: str) -> bool:
    """Install into a fresh environment and run the smoke test there."""
    version = ".".join(map(str, numbers))
    folder = Path(tempfile.mkdtemp(prefix=f"python-{version}-"))
    python = str(folder / "env" / "bin" / "python")
    steps = (
        [path, "-m", "venv", str(folder / "env")],
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", str(ROOT)],
        [python, str(SMOKE)],
    )
    try:
        for step in steps:
            done = subprocess.run(
                step,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
            if done.returncode:
                sys.stderr.write(f"{version} ({path}): FAILED: {' '.join(step)}\n{done.stdout}\n")
                return False
        sys.stderr.write(f"{version} ({path}): ok\n")
        return True
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
