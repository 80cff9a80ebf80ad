"""Durations in seconds."""

from __future__ import annotations

DAY = 86_400
