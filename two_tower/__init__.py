"""The import name of the project: each room of the repository is a link in this package."""
