"""Exit statuses of `two-tower`, beside 0 for success."""

from __future__ import annotations

# Something went wrong that the input does not explain.
FAILURE = 1
# The input is wrong: data, settings or options.
USER_ERROR = 2
# The gate refused the model.
REFUSED = 3
INTERRUPTED = 130
