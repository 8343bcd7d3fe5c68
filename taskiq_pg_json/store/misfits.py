"""What is done with what is not of its type: nothing checks what a serializer of a user's gives."""

from __future__ import annotations

from collections.abc import Mapping

from taskiq_pg_json.errors import ResultEncodeError
from taskiq_pg_json.serializer.exceptions.printable import full_name
from taskiq_pg_json.serializer.protocol import EncodedRow


def check_row(row: object, columns: Mapping[str, object], task_id: str) -> None:
    """Refuse what a serializer gave for the columns where the server could not be given it.

    Raises:
        ResultEncodeError: it is no row, or holds something else than bytes.
    """
    if not isinstance(row, EncodedRow) or not isinstance(row.columns, Mapping):
        path, wrong = "meta" if "meta" in columns else "return_value", row
    else:
        beside = {"types": row.types, "pickled": row.pickled}
        given = {**row.columns, **{name: data for name, data in beside.items() if data is not None}}
        odd = {name: data for name, data in given.items() if not isinstance(data, bytes)}
        if not odd:
            return
        path, wrong = next(iter(odd.items()))
    name = full_name(type(wrong))
    raise ResultEncodeError(
        f"task {task_id}: {path} cannot be stored: the serializer gave something of type {name}, "
        "and it must give an EncodedRow of bytes",
        task_id=task_id,
        path=path,
        type_name=name,
    )
