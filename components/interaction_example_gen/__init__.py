"""InteractionExampleGen: a component that turns events into windows of train, eval and test."""
