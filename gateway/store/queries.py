"""Loads the named queries of the `.sql` files that lie beside the code.

A file is a list of queries. Each begins with its name, then one sentence on what it does, then the statement:

    -- name: open_alerts
    -- The alerts of one patient that nobody has closed yet.
    select …
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name:[ \t]*(?P<name>[a-z][a-z0-9_]*)[ \t]*$", re.MULTILINE)


class QueryFileError(Exception):
    """A `.sql` file is not a list of named, described, unique queries."""


class Queries(Mapping[str, LiteralString]):
    """The queries of one file by name: `queries.open_alerts` or `queries["open_alerts"]`.

    The texts are part of the program, never of its input, and are typed accordingly (`LiteralString`).
    """

    __slots__ = ("_source", "_texts")

    def __init__(self, source: str, texts: Mapping[str, str]) -> None:
        self._source = source
        self._texts = cast("Mapping[str, LiteralString]", MappingProxyType(dict(texts)))

    def __getattr__(self, name: str) -> LiteralString:
        if name.startswith("_"):  # a copy being made has no texts yet
            raise AttributeError(name)
        try:
            return self._texts[name]
        except KeyError:
            raise AttributeError(f"{self._source} has no query named {name!r}") from None

    def __getitem__(self, name: str) -> LiteralString:
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def parse_queries(source: str, text: str) -> Queries:
    """Split the text of a `.sql` file; `source` is the name that errors mention. Raises QueryFileError."""
    headers = list(_NAME.finditer(text))
    if not headers:
        raise QueryFileError(f"{source}: no query begins with '-- name: …'")
    ends = [header.start() for header in headers[1:]] + [len(text)]
    texts: dict[str, str] = {}
    for header, end in zip(headers, ends, strict=True):
        name = header["name"]
        body = text[header.end() : end].strip()
        sentence, _, statement = body.partition("\n")
        if not sentence.startswith("-- ") or not statement.strip():
            raise QueryFileError(f"{source}: query {name!r} needs one sentence as a comment, then a statement")
        if name in texts:
            raise QueryFileError(f"{source}: two queries are named {name!r}")
        texts[name] = f"-- {name}\n{_without_comments(statement)}"
    return Queries(source, texts)


@cache
def load_queries(package: str, filename: str) -> Queries:
    """Load `filename` of a package, `load_queries("gateway.store", "alerts.sql")`, once per process."""
    text = resources.files(package).joinpath(filename).read_text(encoding="utf-8")
    return parse_queries(f"{package}/{filename}", text)


def _without_comments(statement: str) -> str:
    """Drop whole comment lines, so that a `%` in one is not taken for a parameter."""
    return "\n".join(line for line in statement.strip().splitlines() if not line.lstrip().startswith("--"))
