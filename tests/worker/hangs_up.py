"""A module that cannot be imported because it exits."""

import sys

sys.exit("not today")
