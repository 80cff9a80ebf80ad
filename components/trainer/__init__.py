"""Trainer: the two towers, trained on windows and catalog together."""
