"""What goes wrong at the database, sorted once: for each kind, what whoever catches it does."""

from typing import Final

import psycopg

UNAVAILABLE: Final = (psycopg.OperationalError, psycopg.InterfaceError)
"""The database does not serve: whoever answers requests says so (503, a stream is cut), and the client comes back.

psycopg_pool's errors are among them. OSError is not: while a request is answered it means that the client left.
"""

AWAY: Final = (*UNAVAILABLE, OSError)
"""The database is away: whoever works through what there is holds it, connects anew after a while and tries again."""

BROKEN: Final = (psycopg.Error, OSError)
"""A connection that was to be asked or put in order said no, in whatever way: its holder gives it up."""

_OF_THE_PROGRAM: Final = (ArithmeticError, LookupError, TypeError, ValueError)

POISON: Final = (psycopg.DataError, psycopg.IntegrityError, *_OF_THE_PROGRAM)
"""One message cannot be stored, whoever is at fault: the gateway looks for it by halving and quarantines it."""

FAULTS: Final = (*POISON, psycopg.InternalError, psycopg.ProgrammingError, psycopg.NotSupportedError)
"""Something is wrong with one patient's data or with the program: log and count it, go on with everybody else.

Shares no class with AWAY; where both are caught, a connection that broke is caught first.
"""
