#!/usr/bin/env python3
"""Beam workers for `--environment_type=EXTERNAL`, as threads of this one process; it ends with the process.

Beam's own pool (`apache_beam.runners.worker.worker_pool_main`) starts a process for each job, which imports
TensorFlow and TFX anew, for 10 to 30 seconds. This one imports them once. It suits one job at a time.
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer


class WorkerPool(BeamFnExternalWorkerPoolServicer):
    """Pool whose workers send their id on every stream."""

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Starts a worker; Beam 2.59 reads the state stream's id from here alone, and Prism refuses none."""
        WorkerIdInterceptor._worker_id = request.worker_id
        return super().StartWorker(request, context)


def main() -> None:
    """Serves until it is interrupted or terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=50_000, help="port of the pool (default: %(default)s)")
    port = parser.parse_args().port
    stop = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # in the server's threads too, which start later
    address, server = WorkerPool.start(port=port)
    print(f"Beam's workers are at {address}.", flush=True)
    signal.sigwait(stop)
    server.stop(0)


if __name__ == "__main__":
    main()
