"""Lets the tests of this folder import `kv_on_paper` and `made_up_batch`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
