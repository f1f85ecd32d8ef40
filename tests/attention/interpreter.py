"""Makes every kernel of this test process an interpreted one, whatever was imported before.

Triton decides when a function is decorated. Its own library (tl.max, tl.zeros, …) is decorated
when triton is imported, and some packages import triton of their own accord.
"""

import os


def interpret_kernels() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    for module in (tl, tl.core, tl.math, tl.standard):
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                setattr(module, name, InterpretedFunction(value.fn))
