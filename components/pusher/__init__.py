"""Pusher: a blessed model into the directory that servers watch, once."""
