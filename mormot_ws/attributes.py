"""CheckedAttributes: rejects misspelt attributes, and invalid values of attributes.

Python lets you set any attribute on any object, so a misspelt callback is silently never called.
The public classes reject unknown attributes and suggest the one that was probably meant. No
protocol, connection or thread belongs in here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from types import FrameType, NoneType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from .callbacks import check_callback, check_plain
from .elsewhere import Elsewhere
from .logs import get_logger

_log = get_logger("mormot_ws")

_MISSING = object()
#: names more similar than this to a known one are not in a subclass by chance; 1 is identical
_ALIKE = 0.85
_PACKAGE = __name__.partition(".")[0]

#: takes the name of an attribute and a value; raises ``TypeError`` or ``ValueError`` if the value
#: is invalid
Check = Callable[[str, Any], None]

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: the names of types in messages
_WORDS: dict[type, str] = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    NoneType: "None",
}


#: for each check that looks only at the type of a value: the types that always pass
_KINDS: dict[Check, frozenset[type]] = {}


def of_kind(*kinds: type, meant: str = "") -> Check:
    """Return a check that a value has one of these types, which *meant* describes.

    True and False are not numbers.
    """
    words = meant or " or ".join(
        _WORDS.get(kind, f"{'an' if kind.__name__[0] in 'AEIOUaeio' else 'a'} {kind.__name__}")
        for kind in kinds
    )
    exactly = frozenset(kinds)

    def check(name: str, value: Any) -> None:
        kind = type(value)
        if kind in exactly:
            return
        if not isinstance(value, kinds) or kind is bool:
            raise TypeError(f"{name} must be {words}, not {kind.__name__}")

    _KINDS[check] = exactly
    return check


def explains_keywords(**elsewhere: str) -> Callable[[_Function], _Function]:
    """Make the decorated function suggest what an unknown keyword was meant to be.

    *elsewhere* maps names that other libraries use to hints.
    """

    def decorate(function: _Function) -> _Function:
        known = inspect.signature(function).parameters

        @wraps(function)
        def explaining(*arguments: Any, **keywords: Any) -> Any:
            for name in keywords.keys() - known.keys():
                # only needed after a mistyped name
                from difflib import get_close_matches

                called = function.__qualname__.removesuffix(".__init__")
                like = get_close_matches(name, known, 1)
                meant = elsewhere.get(name) or (f"did you mean {like[0]!r}?" if like else "")
                text = f"{called}() has no parameter {name!r}"
                raise TypeError(f"{text}: {meant}" if meant else text)
            return function(*arguments, **keywords)

        return cast("_Function", explaining)

    return decorate


#: the most common checks
IS_BOOL = of_kind(bool)
IS_INT = of_kind(int)
IS_NUMBER = of_kind(float, int, meant="a number")
IS_TEXT = of_kind(str)
IS_MILLISECONDS = of_kind(float, int, meant="a number of milliseconds")


_set = object.__setattr__


class CheckedAttributes:
    """Rejects unknown attributes, invalid values of attributes, and callbacks that cannot be
    called.

    This class is for objects that every message passes through: reading an attribute costs no more
    than on any object. :class:`KnownAttributes` also explains misspelt names when they are read.

    An application's subclass may have attributes of its own. There, only a name that looks like a
    misspelt callback, or like the Pascal name of an attribute, is rejected. Names with a leading
    underscore are always allowed.
    """

    #: names that users look for here but that are elsewhere, with a hint for each
    _ELSEWHERE: ClassVar[dict[str, str]] = {}

    #: the checks of attributes; those of the base classes are added
    _CHECKS: ClassVar[dict[str, Check]] = {}
    #: the parameters of callbacks, by name; those of the base classes are added
    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {}

    #: names of attributes that no constructor sets, because their first value is that of the class;
    #: those of the base classes are added
    _FROM_CLASS: ClassVar[tuple[str, ...]] = ()

    #: the names that have been set on objects of this class. ``__dict__`` would be simpler, but an
    #: object is slower ever after it was asked for it
    _given: ClassVar[set[str]] = set()
    #: those that were first set by the application, not by the package
    _added: ClassVar[set[str]] = set()
    #: those that may have any value: setting them is fast
    _unchecked: ClassVar[set[str]] = set()
    #: for names with a check that only looks at the type: the types that may be set without it
    _quick: ClassVar[dict[str, frozenset[type]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._given, cls._added, cls._unchecked, cls._quick = set(), set(), set(), {}
        checks: dict[str, Check] = {}
        callbacks: dict[str, tuple[str, ...]] = {}
        for kind in reversed(cls.__mro__):
            checks.update(vars(kind).get("_CHECKS", {}))
            callbacks.update(vars(kind).get("_CALLBACKS", {}))
            cls._given.update(vars(kind).get("_FROM_CLASS", ()))
        cls._CHECKS, cls._CALLBACKS = checks, callbacks
        # not needed in a class with __getattr__
        stand_ins = {} if hasattr(cls, "__getattr__") else vars(cls).get("_ELSEWHERE", {})
        for name, meant in stand_ins.items():
            if inspect.getattr_static(cls, name, _MISSING) is _MISSING:
                setattr(cls, name, Elsewhere(name, meant))

    def __dir__(self) -> list[str]:
        kind = type(self)
        return [
            name
            for name in object.__dir__(self)
            if not isinstance(inspect.getattr_static(kind, name, None), Elsewhere)
        ]

    # if a type checker saw this method, it would allow any name
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self._unchecked:
                _set(self, name, value)
                return
            kinds = self._quick.get(name)
            if kinds is not None and type(value) in kinds:
                _set(self, name, value)
                return
            check = self._CHECKS.get(name)
            if check is not None:
                check(name, value)
            elif name[:3] == "on_":
                if value is not None:
                    self._check_callback(name, value)
                elif callable(getattr(type(self), name, None)) and _sets_itself(sys._getframe(1)):
                    # a subclass has defined the callback as a method, as in Pascal: the None from
                    # the constructor must not hide it
                    if name not in self._given:
                        self._check_callback(name, object.__getattribute__(self, name))
                        self._given.add(name)
                    return
            if name not in self._given:
                if not _sets_itself(sys._getframe(1)):
                    if not name.startswith("_"):
                        _check_new(self, name, value)
                    self._added.add(name)
                elif value is None and name[:3] == "on_":
                    _check_methods(type(self), name)
                self._given.add(name)
            if check is None:
                if name[:3] != "on_":
                    self._unchecked.add(name)
            elif check in _KINDS:
                self._quick[name] = _KINDS[check]
            _set(self, name, value)

        def _check_callback(self, name: str, function: Any) -> None:
            parameters = self._CALLBACKS.get(name)
            if parameters is None:
                # an event that an application's subclass defines
                check_plain(function, name)
            else:
                check_callback(function, name, *parameters)


class KnownAttributes(CheckedAttributes):
    """Does the same, and also explains misspelt names when they are read.

    Reading any attribute of such objects is slower.
    """

    # if a type checker saw this method, it would allow any name
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raise ``AttributeError`` with a suggestion. Called only for missing attributes."""
            kind = type(self)
            if name.startswith("_"):
                # other programs probe private names to find out what an object has
                raise AttributeError(
                    f"{kind.__name__!r} object has no attribute {name!r}", name=name, obj=self
                )
            if inspect.getattr_static(kind, name, _MISSING) is not _MISSING:
                # a property raised AttributeError: let it raise its own error again
                return object.__getattribute__(self, name)
            text = f"{kind.__name__} has no attribute {name!r}"
            meant = kind._ELSEWHERE.get(name) or _meant(kind, name, True)
            raise AttributeError(f"{text}: {meant}" if meant else text, name=name, obj=self)


def _sets_itself(caller: FrameType) -> bool:
    """Return whether the code that sets an attribute, in *caller*, belongs to the package."""
    return bool(caller.f_globals.get("__name__", "").startswith(_PACKAGE))


def _check_new(owner: CheckedAttributes, name: str, value: object) -> None:
    """Check an attribute that an application sets for the first time on objects of a class; raise
    ``AttributeError`` if it was probably a mistake.
    """
    kind = type(owner)
    known = inspect.getattr_static(kind, name, _MISSING)
    if isinstance(known, Elsewhere):
        known = _MISSING
    if inspect.isroutine(known):
        if not callable(value):
            raise AttributeError(f"{kind.__name__}.{name} is a method: call it, {name}(…)")
        return
    if known is not _MISSING:
        return
    own = kind.__module__.partition(".")[0] == _PACKAGE
    meant = kind._ELSEWHERE.get(name) or _meant(kind, name, own)
    if meant is None and not own:
        return
    text = f"{kind.__name__} has no attribute {name!r}"
    hint = meant or "a subclass may have attributes of its own"
    raise AttributeError(f"{text}: {hint}", name=name, obj=owner)


def _check_methods(kind: type[CheckedAttributes], name: str) -> None:
    """Look for a method of an application's subclass that was meant to be the callback *name*.

    Raises ``AttributeError`` for a misspelt name. The Pascal spelling is only logged, because the
    subclass may set the callback to that method later.
    """
    known: set[str] = set()
    methods: list[str] = []
    for owner in kind.__mro__:
        own = vars(owner)
        if owner.__module__.partition(".")[0] != _PACKAGE:
            methods += [each for each in own if inspect.isroutine(own[each])]
            continue
        known |= own.keys()
        if inspect.isfunction(init := own.get("__init__")):
            # the attributes that it sets: no object has all of them yet
            known.update(init.__code__.co_names)
    for method in methods:
        if method in known:
            continue
        if method.replace("_", "").lower() == name.replace("_", "").lower():
            _log.warning(
                "%s has a method %r: it is called only if it is named %r, or if %s is set to it",
                kind.__name__,
                method,
                name,
                name,
            )
        elif method.startswith("on_") and _is_like(method, name):
            raise AttributeError(
                f"{kind.__name__} has a method {method!r}, which is never called: did you mean"
                f" {name!r}?",
                name=method,
                obj=kind,
            )


def _is_like(name: str, other: str) -> bool:
    from difflib import SequenceMatcher

    return SequenceMatcher(None, name, other).ratio() >= _ALIKE


def _meant(kind: type[CheckedAttributes], name: str, own: bool) -> str | None:
    """Return which attribute of *kind* was meant by *name*; None if nothing is similar."""
    from difflib import get_close_matches  # only needed after a mistyped name

    elsewhere = {each for owner in kind.__mro__ for each in vars(owner).get("_ELSEWHERE", ())}
    public = [
        known for known in {*dir(kind), *kind._given} - elsewhere if not known.startswith("_")
    ]
    flat = {known.replace("_", "").lower(): known for known in public}
    same = flat.get(name.replace("_", "").lower())
    if same is None and (own or name.startswith("on_")):
        like = get_close_matches(name.lower(), public, 1, 0.6 if own else _ALIKE)
        same = like[0] if like else None
    return None if same is None else f"did you mean {same!r}?"
