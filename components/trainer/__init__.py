"""Trainer: a component that trains the two towers on windows and catalog."""
