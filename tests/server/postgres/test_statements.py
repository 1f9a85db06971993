"""Each statement of the store in PostgreSQL touches rows of one user, by a key that begins with the
user: but for those few that are for all."""

import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from cbfs_server.postgres_store.schema import SCHEMA
from cbfs_server.postgres_store.statements import ONE_BLOB, ONE_USER, WHOLE_STORE, Statement
from tests.support.postgres import PostgresServer

SHARED = {"server", "clock", "suspended", "invites"}
"""Tables that are nobody's alone."""

OF_MANY = {"sweep", "poll", "sizes", "forget_proofs", "sweep_blobs", "erasing"}
"""Statements for all that look at tables of users."""

TYPES = {"bytes": "bytea", "int": "bigint", "bool": "boolean", "float": "float8", "list": "bytea[]"}


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator["psycopg.Connection[Any]"]:
    """With the tables, and where no table is so small that it is read as a whole."""
    with psycopg.connect(postgres_server.database(), autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
        connection.execute(
            "SET search_path = cbfs; SET plan_cache_mode = force_generic_plan;"
            " SET enable_seqscan = off"
        )
        yield connection


def plan_of(database: "psycopg.Connection[Any]", statement: Statement) -> Any:
    name, text = statement.name.decode(), statement.text.decode()
    types = ", ".join(TYPES[each] for each in statement.types)
    database.execute(f"PREPARE {name} {f'({types})' if types else ''} AS {text}".encode())
    values = f"({', '.join(['NULL'] * len(statement.types))})" if types else ""
    found = database.execute(f"EXPLAIN (FORMAT JSON) EXECUTE {name} {values}".encode()).fetchone()
    assert found is not None
    plan = found[0]
    return (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def by_the_user(plan: dict[str, Any], *keys: str) -> bool:
    """Whether every row that is looked for is looked for by the user, or by one of the keys."""
    scans = [node for node in nodes(plan) if "Scan" in node["Node Type"]]
    return all(
        any(key in node.get("Index Cond", "") for key in keys or ("(user_id = $1)",))
        for node in scans
        if node["Node Type"] not in ("CTE Scan", "Subquery Scan", "Bitmap Heap Scan")
    )


@pytest.mark.parametrize("name", sorted(ONE_USER))
def test_a_statement_of_one_user_looks_for_rows_of_that_user(
    name: str, database: "psycopg.Connection[Any]"
) -> None:
    statement = ONE_USER[name]
    assert statement.types[0] == "bytes"
    assert by_the_user(plan_of(database, statement))


@pytest.mark.parametrize("name", sorted(ONE_BLOB))
def test_a_statement_of_one_blob_looks_for_its_rows_or_its_owners(
    name: str, database: "psycopg.Connection[Any]"
) -> None:
    statement = ONE_BLOB[name]
    assert statement.types[0] == "bytes"
    assert by_the_user(plan_of(database, statement), "(id = $1)", "(user_id = $2)")
    text = statement.text.decode()
    added = re.findall(r"INSERT INTO \w+ \((\w+)[^)]*\) (?:VALUES \(|SELECT )(\S+?)[,)]", text)
    assert added == [("id", "$1")] * text.count("INSERT")


@pytest.mark.parametrize("name", sorted(ONE_USER))
def test_what_such_a_statement_adds_is_of_that_user(name: str) -> None:
    text = ONE_USER[name].text.decode()
    added = re.findall(r"INSERT INTO \w+ \((\w+)[^)]*\) (?:VALUES \(|SELECT )(\S+?)[,)]", text)
    assert added == [("user_id", "$1")] * text.count("INSERT")
    assert not SHARED & set(re.findall(r"\w+", text))


def test_one_that_does_not_is_found(database: "psycopg.Connection[Any]") -> None:
    for name, where in ("by_id", "id = $2"), ("by_all", "user_id <> $1"), ("by_day", "day < 9"):
        text = f"SELECT day FROM mail WHERE {where}".encode()
        statement = Statement(name.encode(), ("bytes", "bytes"), text)
        assert not by_the_user(plan_of(database, statement))


def test_few_statements_are_for_all(database: "psycopg.Connection[Any]") -> None:
    """And they touch no table of users, but for those that search."""
    for name, statement in WHOLE_STORE.items():
        if name not in OF_MANY | {"begin", "commit", "rollback"}:
            tables = {
                node["Relation Name"]
                for node in nodes(plan_of(database, statement))
                if "Relation Name" in node
            }
            assert tables <= SHARED


def test_a_poll_and_a_search_go_by_the_key(database: "psycopg.Connection[Any]") -> None:
    for name in "poll", "sweep":
        plan = plan_of(database, WHOLE_STORE[name])
        scans = [node for node in nodes(plan) if "Scan" in node["Node Type"]]
        assert all("user_id" in node.get("Index Cond", "user_id") for node in scans)
        assert not any(node["Node Type"] == "Seq Scan" for node in scans)
