"""Groups that have a file in common: copies of one image are not independent, whatever groups they
are in. They are joined, also over several copies."""


class JoinedGroups:
    """Joins groups of which images have the same content."""

    def __init__(self) -> None:
        self._joined_to: dict[str, str] = {}
        self._first_of: dict[str, str] = {}

    def add(self, group: str, content: str) -> None:
        """Add an image of a group; `content` is the hash of its file, "" where it is not known."""
        self._joined_to.setdefault(group, group)
        if not content:
            return
        own, other = self.of(group), self.of(self._first_of.setdefault(content, group))
        # All get the name that comes first, in whichever order files are added.
        self._joined_to[max(own, other)] = min(own, other)

    def of(self, group: str) -> str:
        """Return the name that a group and all that are joined to it have."""
        while self._joined_to[group] != group:
            group = self._joined_to[group]
        return group
