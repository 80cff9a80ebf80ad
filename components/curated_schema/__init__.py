"""CuratedSchema: a component that writes the hand-kept schema as an artifact of the run."""
