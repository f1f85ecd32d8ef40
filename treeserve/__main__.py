"""`python -m treeserve` is `treeserve`."""

import sys

from treeserve.commands.main import main

sys.exit(main())
