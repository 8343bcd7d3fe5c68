from __future__ import annotations

import os
import re
import time

import pytest
from documents import ROOT, inside, rows, run

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def example(dsn, schema_name, tmp_path):
    """Runs an example on the test server; its tables are in a schema of the test's own."""

    def run_example(name, **variables):
        env = os.environ | {"TASKIQ_PG_JSON_DSN": inside(dsn, schema_name), "COLUMNS": "80"}
        env |= variables
        return run(EXAMPLES / name, tmp_path, env)

    return run_example


class TestBasic:
    def test_it_prints_42_and_leaves_a_readable_row(self, example, dsn, schema_name):
        [result, printed] = example("basic.py").splitlines()
        assert re.fullmatch(
            r"is_err=False log=None return_value=42 execution_time=0\.\d+ labels=\{\} error=None",
            result,
        )
        assert printed.startswith("SUCCESS: 42, at 20")
        [row] = rows(dsn, f"SELECT * FROM {schema_name}.taskiq_results")
        assert (row["status"], row["return_value"], row["error"]) == ("SUCCESS", 42, None)
        assert (row["types"], row["pickled"]) == (None, None)

    def test_the_embedded_server_is_the_default_and_stops_with_the_script(self, tmp_path):
        env = {name: os.environ[name] for name in os.environ if name != "TASKIQ_PG_JSON_DSN"}
        assert "return_value=42" in run(EXAMPLES / "basic.py", tmp_path, env)
        assert (tmp_path / ".pg" / "data" / "PG_VERSION").exists()
        running = tmp_path / ".pg" / "data" / "postmaster.pid"
        deadline = time.monotonic() + 10
        while running.exists() and time.monotonic() < deadline:
            time.sleep(0.05)  # the server's guard may be the one that stops it
        assert not running.exists()


class TestProgress:
    def test_both_reports_are_read_while_it_runs_and_the_last_one_stays(
        self, example, dsn, schema_name
    ):
        started, halfway, result = example("progress.py").splitlines()
        assert started == (
            "state=<TaskState.STARTED: 'STARTED'> "
            "meta={'message': 'Starting to solve problems', 'total': 10}"
        )
        assert halfway == (
            "state='halfway' meta={'message': 'Half are solved', 'total': 10, 'current': 5}"
        )
        assert "return_value=42" in result
        [row] = rows(
            dsn,
            "SELECT status, progress_state, progress_percent, progress_text"
            f" FROM {schema_name}.taskiq_results_outcomes",
        )
        assert list(row.values()) == ["SUCCESS", "halfway", 50, "Half are solved"]


@pytest.fixture
def demo(example, admin):
    """Runs the demo, one at a time on a server, and drops its schema afterwards."""
    admin.execute("SET lock_timeout = 0; SELECT pg_advisory_lock(1, 1); RESET lock_timeout")
    yield lambda **variables: example("demo.py", **variables)
    admin.execute("DROP SCHEMA IF EXISTS taskiq_pg_json_demo CASCADE")
    admin.execute("SELECT pg_advisory_unlock(1, 1)")


class TestDemo:
    def test_it_shows_all_that_it_promises_whatever_a_former_run_has_left(self, demo, admin):
        admin.execute("CREATE SCHEMA taskiq_pg_json_demo")
        admin.execute("CREATE TABLE taskiq_pg_json_demo.taskiq_results (left_by text)")
        printed = demo()
        for line in [
            r"import_catalogue .* 100% done",
            r"count_stock .* 80% shelf 80 is in no plan of the shop",
            r'"due_in": "P14D"',
            r'"type": "dataclass:shop:Invoice"',
            r"WHERE return_value @> '\{\"customer\": \{\"city\": \"Porto\"\}",
            r"charge_card +24 +6 ",
            r"CardDeclinedError +6 .* \[redacted\]",
            r"invoice\.due_in +timedelta +14 days, 0:00:00",
            r"delivery\.carrier +Carrier +Carrier\.TRAIN",
            r"error\.amount +Decimal +\d",
        ]:
            assert re.search(line, printed), line
        assert max(map(len, printed.splitlines())) <= 80
        [[tasks]] = admin.execute("SELECT count(*) FROM taskiq_pg_json_demo.taskiq_results")
        assert tasks == 75

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_a_narrow_terminal_without_unicode_gets_every_line_in_full(self, demo, encoding):
        printed = demo(PYTHONIOENCODING=encoding, COLUMNS="60")
        words = " ".join(printed.split())
        assert "(return_value ->> 'issued_at')::timestamptz(0) AS issued_at FROM" in words
        assert "largest: Decimal = max(row.return_value.total for row in page.items)" in words
        assert max(map(len, printed.splitlines())) <= 60
