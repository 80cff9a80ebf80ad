"""Silence for what Google's packages print before our own output, in this process and its children.

- google.api_core warns that Google no longer supports Python 3.10, once for each package that uses it.
- google.auth warns that grpcio is older than a version that it will require.
- gcsfs logs the trace of a request that failed; our message names the same cause.

TFX 1.16 runs on no newer Python and on no newer grpcio, so that a user has nothing to mend. The filters name
these modules and this category: every other warning still shows.
"""

from __future__ import annotations

import logging
import os
import re
import warnings

_WARN_OF_VERSIONS = ("google.api_core._python_version_support", "google.auth.transport.grpc")
_VARIABLE = "PYTHONWARNINGS"


def silence() -> None:
    """Installs the filters; to be called before anything imports TFX, Beam or gcsfs."""
    options = list(filter(None, os.environ.get(_VARIABLE, "").split(",")))
    for module in _WARN_OF_VERSIONS:
        warnings.filterwarnings("ignore", category=FutureWarning, module=re.escape(module) + r"\Z")
        option = f"ignore::FutureWarning:{module}"
        if option not in options:
            options.append(option)
    os.environ[_VARIABLE] = ",".join(options)
    # A logger without any handler prints on standard error; a run's log still gets the record.
    gcsfs = logging.getLogger("gcsfs")
    if not gcsfs.handlers:
        gcsfs.addHandler(logging.NullHandler())
