"""The kernels run under Triton's interpreter, which is chosen when they are decorated."""

import os

os.environ["TRITON_INTERPRET"] = "1"
