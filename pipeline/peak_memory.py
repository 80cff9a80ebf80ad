"""Peak memory of this process and its children."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

_SECONDS_BETWEEN_SAMPLES = 0.2


class PeakMemory:
    """Sampler of resident memory on a thread; `bytes` is the peak so far.

    Components of a local run share one process. So a component's figure includes modules loaded by earlier
    components, such as TensorFlow.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._resident())
            if self._done.wait(_SECONDS_BETWEEN_SAMPLES):
                return

    def _resident(self) -> int:
        total = int(self._process.memory_info().rss)
        for child in self._process.children(recursive=True):
            try:
                total += int(child.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        return total
