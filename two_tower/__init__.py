"""The import name of the project: each room of the repository is a link in this package."""

from two_tower.base import arrow_hotfix

# Every import of a room passes here, so no reader of files can forget it.
arrow_hotfix.install()
