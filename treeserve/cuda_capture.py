"""Captures work for the device as CUDA graphs, all of them in one memory pool."""

from collections.abc import Callable

import torch


class CudaCapture:
    """Work is warmed up and captured on a stream of its own, and replayed on the current one.

    Graphs share memory for whatever they do not keep: they are replayed one after another on one
    stream, and nothing that one leaves behind outlives the next but what lies outside the pool.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], None]) -> None:
        """Run the work as it is, so that kernels are compiled and libraries have their memory."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work without running it; what is returned runs it.

        Raises:
            RuntimeError: It waits for the device, or there is no memory.
        """
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._stream.device)
        try:
            # thread_local: what other threads of the process do with CUDA is their own business.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                work()
        finally:
            # Where the end of a capture fails, torch leaves the capture's stream the current one.
            torch.cuda.set_stream(current)
        return graph.replay

    def forget(self) -> None:
        """Wait until nothing that was captured is running: it is about to be dropped."""
        torch.cuda.synchronize(self._stream.device)
        # A pool whose last graph is gone cannot take another one.
        self._pool = torch.cuda.graph_pool_handle()
