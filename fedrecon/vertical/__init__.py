"""Institutions that know different things of the same patients.

`Party` finds the patients that two of them share. Its primitives come from the library ``cryptography`` (the
extra ``secure``), which is imported when they are first used.
"""

from fedrecon.vertical.private_set_intersection import (
    SESSION,
    Common,
    Party,
    intersect,
    new_session,
)

__all__ = ["SESSION", "Common", "Party", "intersect", "new_session"]
