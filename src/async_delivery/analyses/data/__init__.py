"""The data set that comes with the package, for the demo, the docs and the tests. Sources: SOURCE.md beside it."""

from pathlib import Path

PENGUINS = Path(__file__).with_name("penguins.csv")
"""344 penguins, 8 columns, 15 kB, CC0."""
