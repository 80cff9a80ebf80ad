"""Measures the model that would be pushed, beside baselines and the last blessed model, and judges it."""
