"""CuratedSchema: the schema that people keep, as an artifact of the run."""
