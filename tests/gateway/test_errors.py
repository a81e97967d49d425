"""Errors of the database, sorted: each has its place, and only one of them."""

import psycopg
import psycopg_pool

from gateway.store.errors import AWAY, FAULTS, POISON, UNAVAILABLE


def test_what_the_database_says_is_either_away_or_a_fault() -> None:
    kinds = [one for one in vars(psycopg.errors).values() if isinstance(one, type) and issubclass(one, psycopg.Error)]
    # Directly below DatabaseError are also those that no statement of ours can raise (roles, cursors, snapshots).
    states = [one for one in kinds if len(one.__mro__) > len(psycopg.DataError.__mro__)]
    assert len(states) > 200
    assert [one for one in states if issubclass(one, AWAY) == issubclass(one, FAULTS)] == []


def test_a_message_cannot_poison_what_a_broken_connection_did() -> None:
    assert not [one for one in POISON if issubclass(one, AWAY) or any(issubclass(away, one) for away in AWAY)]


def test_a_pool_that_has_no_connection_is_a_database_that_does_not_serve() -> None:
    for error in (psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests, psycopg_pool.PoolClosed):
        assert issubclass(error, UNAVAILABLE)
