"""InteractionExampleGen: raw listening events to packed windows with a temporal split."""
