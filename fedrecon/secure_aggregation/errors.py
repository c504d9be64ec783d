"""What ends a round of a secure sum, or keeps a message out of it."""

from fedrecon.errors import ArgumentError


class ProtocolError(ArgumentError):
    """A message that no honest party sends; its receiver does not go on with it."""


class AbortedError(ProtocolError):
    """Too few parties are left: the round ends without a sum, and nobody learns anything."""
