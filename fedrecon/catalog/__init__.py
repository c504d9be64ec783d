"""The catalog of named federated methods: one row each, read by experiments, tests and documentation.

A method of this package is a file in ``fedrecon/federated/methods`` and a row of `table`; a method from
elsewhere adds its row by `register`. CONTRIBUTING.md has an example.
"""

from fedrecon.catalog.entry import NEEDS, RATES, Entry, chosen_options, options_of
from fedrecon.catalog.registry import ALIASES, entries, lookup, register, registered
from fedrecon.catalog.tracing import CONTRAST, PARAMETERS, example, traffic

__all__ = [
    "ALIASES",
    "CONTRAST",
    "NEEDS",
    "PARAMETERS",
    "RATES",
    "Entry",
    "chosen_options",
    "entries",
    "example",
    "lookup",
    "options_of",
    "register",
    "registered",
    "traffic",
]
