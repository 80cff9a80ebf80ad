"""A package, so that its modules are not taken for those of another distribution named tests."""
