"""The commands of `two-tower`: one module each, listed in `registry`."""
