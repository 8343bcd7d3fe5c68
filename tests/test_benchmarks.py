from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from peers import peer_module

RUN = Path(__file__).parent.parent / "benchmarks" / "run.py"


def test_a_quick_run_compares_this_project_with_its_peers_and_the_floor(tmp_path):
    peer_module()
    command = [sys.executable, str(RUN), "--quick", "--output", str(tmp_path)]

    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert run.returncode == 0, run.stderr
    assert "How many times better than the best peer, and the floor" in run.stdout
    measurements = json.loads((tmp_path / "latest.json").read_text())["measurements"]
    measured = {(found["case"]["operation"], found["contender"]) for found in measurements}
    for operation in ("set_result", "is_result_ready", "get_result", "set_progress"):
        assert (operation, "taskiq-pg-json") in measured
        assert (operation, "taskiq-postgres asyncpg orjson") in measured
        assert (operation, "floor: psycopg") in measured
    assert all(value >= 0 for found in measurements for value in found["values"])
