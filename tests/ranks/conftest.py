"""Lets the tests of this folder import `kv_on_paper`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "scheduler"))
