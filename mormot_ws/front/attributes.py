"""FixedAttributes: objects that refuse attributes that they do not have, and say what is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar


class FixedAttributes:
    """Base of the classes of the front door, whose attributes are their ``__slots__``."""

    __slots__ = ()

    #: what to do with data of one's own
    _OWN_DATA: ClassVar[str] = "a subclass may have attributes of its own"

    # a type checker that saw this method would allow any name
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                object.__setattr__(self, name, value)
            except AttributeError:
                raise AttributeError(
                    f"{type(self).__name__}.{name} cannot be set: {self._meant(name)}",
                    name=name,
                    obj=self,
                ) from None

    def _meant(self, name: str) -> str:
        from difflib import get_close_matches  # only those who mistype a name pay for it

        known = getattr(type(self), name, None)
        if callable(known):
            return f"it is a method, so call it: {name}(…), or use it as a decorator"
        if known is not None:
            return "it can only be read"
        public = [known for known in dir(type(self)) if not known.startswith("_")]
        like = get_close_matches(name, public, 1)
        return f"did you mean {like[0]!r}?" if like else f"there is none; {self._OWN_DATA}"
