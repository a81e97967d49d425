"""The loader of named queries: what it accepts, and how it refuses the rest."""

import copy

import pytest

from gateway.store.queries import QueryFileError, parse_queries

TWO = """-- name: one
-- The number one.
-- A remark with 100 % of a percent sign.
select 1

-- name: two
-- The number two,
select
    2
"""


def test_each_query_is_an_attribute_that_begins_with_its_name() -> None:
    queries = parse_queries("two.sql", TWO)
    assert list(queries) == ["one", "two"]
    assert queries.one == "-- one\nselect 1"
    assert queries["two"] == "-- two\nselect\n    2"
    assert "%" not in queries.one
    assert copy.copy(queries).one == queries.one


def test_an_unknown_name_tells_which_file_lacks_it() -> None:
    with pytest.raises(AttributeError, match=r"two\.sql has no query named 'three'"):
        _ = parse_queries("two.sql", TWO).three


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("select 1", "no query begins"),
        ("-- name: one\nselect 1", "one sentence"),
        ("-- name: one\n-- The number one.\n", "one sentence"),
        ("-- name: one\n-- One.\nselect 1\n-- name: one\n-- One.\nselect 1", "two queries"),
    ],
)
def test_a_file_that_is_no_list_of_described_queries_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(QueryFileError, match=complaint):
        parse_queries("bad.sql", text)
