"""Pusher: a component that publishes a blessed model once."""
