"""Component that settles the settings which follow from the data."""
