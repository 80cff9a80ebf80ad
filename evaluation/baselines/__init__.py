"""Baselines: popularity, the user's own history, words, neighbours, factors and content.

Each is trained on the train windows alone; its settings are chosen on eval queries. That holds under every
protocol: one label or a set of labels changes the metric alone. A query is answered from the events that the
model sees of its user too.

A baseline is one module with a `BASELINE` (see `definition.Baseline`) and one line in `registry`.
"""
