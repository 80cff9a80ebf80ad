"""Package marker, so that these modules are not confused with another distribution's tests."""
