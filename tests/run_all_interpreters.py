"""Runs the tests on every Python of the supported range that this machine has.

Each gets a virtual environment of its own, ``.venv-3.x``. Arguments go to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
ROOT = Path(__file__).resolve().parent.parent


def find(version: str) -> str | None:
    """An interpreter of this version: among pyenv's, on PATH, or the one that runs this."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [
        *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True),
        shutil.which(f"python{version}"),
        getattr(sys, "_base_executable", sys.executable),
    ]
    return next((str(path) for path in candidates if path and is_version(path, version)), None)


def is_version(path: str | Path, version: str) -> bool:
    """Whether it runs (pyenv's shims may not) and is of that version."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return asked.stdout.strip() == version


def prepare(interpreter: str, version: str) -> Path:
    """The Python of an up-to-date virtual environment."""
    environment = ROOT / f".venv-{version}"
    python, stamp = environment / "bin" / "python", environment / ".has-test"
    if not stamp.exists() or stamp.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "-e", ".[test]"], cwd=ROOT, check=True)
        stamp.touch()
    return python


def run(version: str, arguments: list[str]) -> str:
    """What became of the tests on one version."""
    interpreter = find(version)
    if interpreter is None:
        return "not found on this machine"
    print(f"Python {version} ({interpreter})", flush=True)
    try:
        python = prepare(interpreter, version)
    except subprocess.CalledProcessError:
        return "FAILED to install"
    started = time.monotonic()
    tests = subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT, check=False)
    return f"{'FAILED' if tests.returncode else 'passed'} in {time.monotonic() - started:.0f} s"


def main() -> int:
    """Run them all, and tell at the end."""
    outcomes = {version: run(version, sys.argv[1:]) for version in VERSIONS}
    print()
    for version, outcome in outcomes.items():
        print(f"Python {version}: {outcome}")
    failed = any(outcome.startswith("FAILED") for outcome in outcomes.values())
    return int(failed or not any(outcome.startswith("passed") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
