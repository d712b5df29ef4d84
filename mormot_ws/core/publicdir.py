"""PublicDir: what ``dir()`` shows of an object that users hold, and so what a console or an editor
offers behind its dot.

Some members have no underscore because other modules of the package call them, though applications
have no use for them. Nothing but that list of names belongs in here: no class is changed by it, and
no member is harder to reach.
"""

from __future__ import annotations

from typing import ClassVar


class PublicDir:
    """Base of the public classes: ``dir(object)`` holds their public names, those of an
    application's own descendants included.

    A class names in ``_internal`` what it or a base defines for the package alone. ``vars(object)``
    shows everything, as ever.
    """

    __slots__ = ()

    #: members without underscore that are no public ones
    _internal: ClassVar[frozenset[str]] = frozenset()

    def __dir__(self) -> list[str]:
        hidden = {name for base in type(self).__mro__ for name in vars(base).get("_internal", ())}
        return [name for name in super().__dir__() if name not in hidden and not is_private(name)]


def is_private(name: str) -> bool:
    """Tell whether *name* begins with an underscore, and is none of Python's own."""
    return name.startswith("_") and not name.endswith("__")
