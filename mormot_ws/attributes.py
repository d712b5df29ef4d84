"""CheckedAttributes: refuses misspelt attributes, and values that an attribute cannot have.

Python sets any attribute on any object, so a misspelt callback is never called and nobody says why.
The public classes refuse what they do not have, and name what was probably meant. No protocol, no
connection and no thread belongs in here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from types import FrameType, NoneType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from .callbacks import check_callback, check_plain
from .core.elsewhere import Elsewhere
from .logs import get_logger

_log = get_logger("mormot_ws")

_MISSING = object()
#: how like a known name another one is that a subclass cannot have by chance; 1 is the same
_ALIKE = 0.85
_PACKAGE = __name__.partition(".")[0]

#: takes the name of an attribute and a value; raises ``TypeError`` or ``ValueError`` for a value
#: that it cannot have
Check = Callable[[str, Any], None]

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: what a type is called in messages
_WORDS: dict[type, str] = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    NoneType: "None",
}


def of_kind(*kinds: type, meant: str = "") -> Check:
    """Return a check that a value is of one of these types, which *meant* describes.

    True and False are no numbers.
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

    return check


def explains_keywords(**elsewhere: str) -> Callable[[_Function], _Function]:
    """Let the decorated function say what was meant by a keyword that it does not have.

    *elsewhere* are names that others use, and what to do about them.
    """

    def decorate(function: _Function) -> _Function:
        known = inspect.signature(function).parameters

        @wraps(function)
        def explaining(*arguments: Any, **keywords: Any) -> Any:
            for name in keywords.keys() - known.keys():
                # only those who mistype a name pay for it
                from difflib import get_close_matches

                called = function.__qualname__.removesuffix(".__init__")
                like = get_close_matches(name, known, 1)
                meant = elsewhere.get(name) or (f"did you mean {like[0]!r}?" if like else "")
                text = f"{called}() has no parameter {name!r}"
                raise TypeError(f"{text}: {meant}" if meant else text)
            return function(*arguments, **keywords)

        return cast("_Function", explaining)

    return decorate


#: the commonest checks
IS_BOOL = of_kind(bool)
IS_INT = of_kind(int)
IS_NUMBER = of_kind(float, int, meant="a number")
IS_TEXT = of_kind(str)
IS_MILLISECONDS = of_kind(float, int, meant="a number of milliseconds")


_set = object.__setattr__


class CheckedAttributes:
    """Refuses attributes that its objects do not have, values that attributes cannot have, and
    callbacks that cannot be called.

    For what each message passes: reading an attribute costs no more than on any object.
    :class:`KnownAttributes` also explains misspelt names that are read.

    A subclass in a program may have attributes of its own; there only what looks like a misspelt
    callback, or like the Pascal name of something, is refused. Names with a leading underscore are
    free everywhere.
    """

    #: names that are looked for here and are elsewhere, and what to do about them
    _ELSEWHERE: ClassVar[dict[str, str]] = {}

    #: what attributes can be; those of the classes above are added
    _CHECKS: ClassVar[dict[str, Check]] = {}
    #: what callbacks are called with, by their names; those of the classes above are added
    _CALLBACKS: ClassVar[dict[str, tuple[str, ...]]] = {}

    #: names that objects of this class have been given. Not looked for in ``__dict__``: an object
    #: that was asked for it once is slower ever after
    _given: ClassVar[set[str]] = set()
    #: those of them that were first set by a program, not by the package
    _added: ClassVar[set[str]] = set()
    #: those of them that may have any value: setting them is quick
    _unchecked: ClassVar[set[str]] = set()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._given, cls._added, cls._unchecked = set(), set(), set()
        checks: dict[str, Check] = {}
        callbacks: dict[str, tuple[str, ...]] = {}
        for kind in reversed(cls.__mro__):
            checks.update(vars(kind).get("_CHECKS", {}))
            callbacks.update(vars(kind).get("_CALLBACKS", {}))
        cls._CHECKS, cls._CALLBACKS = checks, callbacks
        # a class with __getattr__ needs none
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

    # a type checker that saw this method would allow any name
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name in self._unchecked:
                _set(self, name, value)
                return
            check = self._CHECKS.get(name)
            if check is not None:
                check(name, value)
            elif name[:3] == "on_":
                if value is not None:
                    self._check_callback(name, value)
                elif callable(getattr(type(self), name, None)) and _sets_itself(sys._getframe(1)):
                    # a subclass has written the callback as a method, as one would in Pascal: that
                    # nothing was given to the constructor must not hide it
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
                if check is None and name[:3] != "on_":
                    self._unchecked.add(name)
            _set(self, name, value)

        def _check_callback(self, name: str, function: Any) -> None:
            parameters = self._CALLBACKS.get(name)
            if parameters is None:
                # an event of a subclass of a program
                check_plain(function, name)
            else:
                check_callback(function, name, *parameters)


class KnownAttributes(CheckedAttributes):
    """Does the same, and says what was meant by a misspelt name that is read.

    Python reads every attribute of such objects more slowly.
    """

    # a type checker that saw this method would allow any name
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raise ``AttributeError``, with what was meant. Called for what there is not."""
            kind = type(self)
            if name.startswith("_"):
                # other programs look for private names to find out what an object has
                raise AttributeError(
                    f"{kind.__name__!r} object has no attribute {name!r}", name=name, obj=self
                )
            if inspect.getattr_static(kind, name, _MISSING) is not _MISSING:
                # a property that has raised AttributeError: let it say so itself
                return object.__getattribute__(self, name)
            text = f"{kind.__name__} has no attribute {name!r}"
            meant = kind._ELSEWHERE.get(name) or _meant(kind, name, True)
            raise AttributeError(f"{text}: {meant}" if meant else text, name=name, obj=self)


def _sets_itself(caller: FrameType) -> bool:
    """Return whether the code that sets an attribute, that of *caller*, is the package's."""
    return bool(caller.f_globals.get("__name__", "").startswith(_PACKAGE))


def _check_new(owner: CheckedAttributes, name: str, value: object) -> None:
    """Raise what an attribute deserves that a program sets on objects of a class for the first
    time.
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
    """Look for a method of a program's subclass that was meant to be the callback *name*.

    Raises ``AttributeError`` for a misspelt one. The Pascal spelling is only logged, because the
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
            # those that it sets: no object has been given all of them yet
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
    """Return which attribute of *kind* was meant by *name*; None when nothing is like it."""
    from difflib import get_close_matches  # only those who mistype a name pay for it

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
