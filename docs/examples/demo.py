"""A small shop's tasks, and what can be done with their results: ``make demo``.

The server is the embedded one, in ``./.pg``, or the one that ``TASKIQ_PG_JSON_DSN`` names. The
tables stand in a schema of their own, which each run makes anew.
"""

import asyncio
import inspect
import json
import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from io import TextIOWrapper
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import psycopg
import shop
from psycopg.rows import dict_row
from rich import box
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.syntax import Syntax
from rich.table import Table

from taskiq_pg_json import JsonbResultBackend, ResultStore, TaskInfoMiddleware, TaskRecord
from taskiq_pg_json.embedded import EmbeddedPostgres

ORDERS = 24
PEOPLE = [("Ada", "Lisbon"), ("Bruno", "Porto"), ("Clara", "Braga"), ("Duarte", "Porto")]
GOODS = [("teapot", "34.90"), ("cup", "7.50"), ("kettle", "59.00"), ("tray", "18.25")]
SCHEMA = "taskiq_pg_json_demo"
JSON_WIDTH = 72
VALUE_WIDTH = 36

Rows: TypeAlias = list[dict[str, Any]]

console = Console(highlight=False)


class Order(NamedTuple):
    """The ids of an order's tasks."""

    invoice: str
    charge: str
    delivery: str


def main() -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where it is not UTF-8
    logging.getLogger("taskiq").setLevel(logging.CRITICAL)  # some tasks are meant to fail
    with (
        running_server() as dsn,
        psycopg.connect(dsn, autocommit=True, options=f"-c search_path={SCHEMA}") as connection,
    ):
        connection.execute("DROP SCHEMA IF EXISTS taskiq_pg_json_demo CASCADE")
        asyncio.run(demonstrate(dsn, connection))


@contextmanager
def running_server() -> Iterator[str]:
    if dsn := os.environ.get("TASKIQ_PG_JSON_DSN"):
        yield dsn
        return
    console.print("Starting PostgreSQL in ./.pg ...\n", style="dim")
    with EmbeddedPostgres("./.pg") as server:
        yield server.dsn
    console.print(
        "PostgreSQL has stopped. The rows stay in ./.pg, to be looked at with psql:\n"
        "docs/how-to/embedded-postgres.md tells how.",
        style="dim",
    )


async def demonstrate(dsn: str, connection: psycopg.Connection) -> None:
    backend: JsonbResultBackend[Any] = JsonbResultBackend(dsn, schema=SCHEMA)
    broker = shop.broker.with_result_backend(backend).with_middlewares(
        TaskInfoMiddleware(record_started=True, redact={"card"})
    )
    await broker.startup()
    heading("A shop's tasks run; the store tells how far they are")
    catalogue = await shop.import_catalogue.kiq(40)
    sales = await shop.learn_what_sells.kiq(10)
    stock = await shop.count_stock.kiq(100)
    orders = [await send_order(number) for number in range(1, ORDERS + 1)]
    await watch(backend.store, [catalogue.task_id, sales.task_id, stock.task_id])
    await shop.broker.wait_all()

    show_row(connection, orders[1])
    await show_search(backend.store, connection)
    show_analysis(connection)
    await show_values(backend.store, orders, catalogue.task_id)
    await broker.shutdown()


async def send_order(number: int) -> Order:
    name, city = PEOPLE[number % len(PEOPLE)]
    customer = shop.Customer(id=UUID(int=number), name=name, city=city)
    items = [
        shop.Item(sku, 1 + number * step % 4, Decimal(price))
        for step, (sku, price) in enumerate(GOODS, 1)
        if (number + step) % 3 == 0 or step == 1
    ]
    total = sum((item.quantity * item.price for item in items), Decimal())
    invoice = await shop.write_invoice.kiq(number, customer, items)
    charge = await shop.charge_card.kiq(number, total, card=f"4000 1234 5678 {1000 + number}")
    delivery = await shop.plan_delivery.kiq(city)
    return Order(invoice.task_id, charge.task_id, delivery.task_id)


async def watch(store: ResultStore, task_ids: list[str]) -> None:
    """Draw the progress of tasks, as the store tells it, until they have ended."""
    columns = TextColumn("  {task.description:<17}"), BarColumn(16), TaskProgressColumn()
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=console) as bars:
        drawn = {task_id: bars.add_task("", total=100, text="") for task_id in task_ids}
        ended = 0
        while ended < len(task_ids):
            await asyncio.sleep(0.05)
            records = await store.get_many(task_ids)
            for task_id, record in records.items():
                bars.update(drawn[task_id], **progress_line(record))
            ended = sum(record.is_ready for record in records.values())
    console.print()


def progress_line(record: TaskRecord) -> dict[str, Any]:
    progress = record.progress
    if record.is_ready:
        text = f"[red]{escape(str(record.error))}[/]" if record.error else "[green]done[/]"
    else:
        text = (progress and progress.text) or "begins"
    percent = (progress and progress.percent) or 0
    return {"description": record.task_name, "completed": percent, "text": text}


def show_row(connection: psycopg.Connection, order: Order) -> None:
    heading("A row: the value as clean JSON, and beside it the types that JSON lacks")
    query = """
        SELECT return_value, types -> 'return_value' AS types
        FROM taskiq_results WHERE task_id = %s
        """
    [row] = ask(connection, query, order.invoice)
    for column, value in row.items():
        console.print(f"\n  {column}", style="bold")
        console.print(Padding(JSONHighlighter()(readable_json(value)), (0, 0, 0, 4)))
    console.print()


async def show_search(store: ResultStore, connection: psycopg.Connection) -> None:
    heading("A search by containment: in SQL, and in Python")
    print_table(
        ask(
            connection,
            """
            SELECT return_value -> 'number'            AS invoice,
                   return_value #>> '{customer,name}'  AS customer,
                   (return_value ->> 'total')::numeric AS total,
                   (return_value ->> 'issued_at')::timestamptz(0) AS issued_at
            FROM taskiq_results
            WHERE return_value @> '{"customer": {"city": "Porto"},
                                    "items": [{"sku": "kettle"}]}'
            ORDER BY total DESC
            """,
        )
    )
    print_code(inspect.getsource(largest_kettle_invoice), "python")
    console.print(f"\n  {await largest_kettle_invoice(store)!r}\n", style="bold")


async def largest_kettle_invoice(store: ResultStore) -> Decimal:
    wanted = {"customer": {"city": "Porto"}, "items": [{"sku": "kettle"}]}
    page = await store.search(task=shop.write_invoice, return_value=wanted)
    largest: Decimal = max(row.return_value.total for row in page.items)
    return largest


def show_analysis(connection: psycopg.Connection) -> None:
    heading("An analysis in SQL, over the views")
    print_table(
        ask(
            connection,
            """
            SELECT task_name, count(*) AS runs,
                   count(*) FILTER (WHERE status = 'FAILURE') AS failed,
                   round(1000 * avg(execution_time))::int AS mean_ms,
                   round(1000 * max(execution_time))::int AS max_ms
            FROM taskiq_results_outcomes
            GROUP BY task_name ORDER BY mean_ms
            """,
        )
    )
    print_table(
        ask(
            connection,
            """
            SELECT error_type, count(*), min(error_message) AS for_example,
                   min(kwargs ->> 'card') AS card
            FROM taskiq_results_failures
            GROUP BY error_type ORDER BY count DESC
            """,
        )
    )


async def show_values(store: ResultStore, orders: list[Order], catalogue: str) -> None:
    heading("Back in Python: the very values that were returned and raised")
    invoice: shop.Invoice = (await store.get(orders[1].invoice)).return_value
    delivery: shop.Delivery = (await store.get(orders[1].delivery)).return_value
    suppliers = (await store.get(catalogue)).return_value["suppliers"]
    charges = await store.get_many(order.charge for order in orders)
    error = next(charge.error for charge in charges.values() if charge.error)
    assert isinstance(error, shop.CardDeclinedError)
    values = {
        "invoice": invoice,
        "invoice.customer": invoice.customer,
        "customer.id": invoice.customer.id,
        "invoice.total": invoice.total,
        "invoice.issued_at": invoice.issued_at,
        "invoice.due_in": invoice.due_in,
        "delivery.carrier": delivery.carrier,
        "delivery.stops": delivery.stops,
        "suppliers": suppliers,
        "error": error,
        "error.amount": error.amount,
    }
    print_table(
        [
            {"value": name, "type": type(value).__name__, "str()": shortened(value)}
            for name, value in values.items()
        ]
    )


def heading(text: str) -> None:
    console.rule(f"[bold]{text}[/]", align="left", style="cyan")
    console.print()


def ask(connection: psycopg.Connection, query: str, *values: object) -> Rows:
    """Print a query and return its rows."""
    print_code(query, "sql")
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values or None).fetchall()


def print_code(text: str, language: str) -> None:
    code = textwrap.dedent(text).strip()
    syntax = Syntax(code, language, theme="ansi_dark", background_color="default", word_wrap=True)
    console.print(Padding(syntax, (0, 2)))


def print_table(rows: Rows) -> None:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    console.print(table)


def readable_json(value: object, indent: str = "", taken: int = 0) -> str:
    """JSON with a line for each thing that fits in one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + taken + len(flat) <= JSON_WIDTH or not isinstance(value, dict | list):
        return flat
    inner = indent + "  "
    if isinstance(value, list):
        opening, closing = "[]"
        lines = [readable_json(child, inner) for child in value]
    else:
        opening, closing = "{}"
        keys = {key: f"{json.dumps(key)}: " for key in value}
        lines = [
            keys[key] + readable_json(child, inner, len(keys[key])) for key, child in value.items()
        ]
    return f"{opening}\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}{closing}"


def shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"


if __name__ == "__main__":
    main()
