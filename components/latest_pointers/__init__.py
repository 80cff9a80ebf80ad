"""LatestPointers: a component that reads which model and which statistics are the latest under a root."""
