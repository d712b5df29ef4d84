"""Each attribute has an owner: one class writes it, and others call the owner's methods.

So it is enough to read one class to know when an attribute changes, and under which lock.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from support import ROOT

PACKAGE = ROOT / "mormot_ws"

#: attributes of one class that several others write, and why
SHARED = {
    "HttpServerRequest.*": "the value in which what answers a request puts its answer, as an"
    " application does; it belongs to one thread at a time",
    "MessageCounts.*": "a call for each message would cost the hot path some hundredths; what is"
    " sent is counted under safe_out, what is received in the loop's thread",
    "WebSocketFrame.tix": "kept for Pascal's name: an expiry in a list of frames, and the mark of"
    " an answered ping in the liveness; no frame comes to both",
}

#: what is not ours: a namespace of ``argparse``, a connection of ``http.client``
FOREIGN = ("args.", "connection.sock")

_CONSTRUCTORS = ("__init__", "__new__", "__init_subclass__", "__post_init__", "__set_name__")


class Scope:
    """What is known of the names in one function."""

    def __init__(self, writer: str, types: dict[str, str], function: str = "") -> None:
        #: the class of the function, or its module
        self.writer = writer
        #: the class of each name
        self.types = types
        self.function = function


class Package:
    """The classes of a package, by their names, and what its code writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trees = {
            path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
            for path in sorted(root.rglob("*.py"))
        }
        self.bases: dict[str, list[str]] = {}
        #: the classes of the attributes, where annotations or assignments tell
        self.types: dict[str, dict[str, str]] = defaultdict(dict)
        #: the classes that write an attribute of a class, and where
        self.writers: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        #: what methods write of their own objects, constructors included
        self.own: dict[str, set[str]] = defaultdict(set)
        #: (attribute, writer, where) for objects whose class is not known
        self.unknown: list[tuple[str, str, str]] = []
        classes = [
            (where, node)
            for where, tree in self.trees.items()
            for node in tree.body
            if isinstance(node, ast.ClassDef)
        ]
        for _, node in classes:
            names = [_name_of(base) for base in node.bases]
            self.bases[node.name] = [*self.bases.get(node.name, []), *names]
        for _, node in classes:
            self._learn(node)
        for where, node in classes:
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    self._read_method(node.name, item, where)
        for where, tree in self.trees.items():
            for item in tree.body:
                if not isinstance(item, ast.ClassDef):
                    self._read(item, self._scope_of(item, Scope(where, {})), where)
        self._settle_unknown()

    # ------------------------------------------------------------------------------ what is what

    def _class_in(self, text: str) -> str:
        """Return the first class of the package that an annotation names; '' if none."""
        found = [name for name in re.findall(r"\w+", text) if name in self.bases]
        return found[0] if found and not re.match(r"(list|dict|set|deque|Callable)\b", text) else ""

    def _learn(self, node: ast.ClassDef) -> None:
        """Find out what the attributes of a class are."""
        types = self.types[node.name]
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                if item.returns is not None:
                    # of a property, or of what the method returns
                    types.setdefault(item.name, self._class_in(ast.unparse(item.returns)))
                names = self._parameters(item)
                for each in _nodes(item):
                    if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Attribute):
                        value = each.value
                        kind = self._made(value) or names.get(ast.unparse(value), "")
                        if kind:
                            types.setdefault(each.targets[0].attr, kind)
                    elif isinstance(each, ast.AnnAssign):
                        types[_name_of(each.target)] = self._class_in(ast.unparse(each.annotation))
            elif isinstance(item, ast.AnnAssign):
                types[_name_of(item.target)] = self._class_in(ast.unparse(item.annotation))

    def _made(self, value: ast.expr) -> str:
        """Return the class of the new object *value*; '' if it is not one."""
        name = _name_of(value.func) if isinstance(value, ast.Call) else ""
        return name if name in self.bases else ""

    def _parameters(self, function: ast.FunctionDef) -> dict[str, str]:
        arguments = [*function.args.args, *function.args.kwonlyargs]
        return {
            each.arg: self._class_in(ast.unparse(each.annotation))
            for each in arguments
            if each.annotation is not None
        }

    def _type_of(self, value: ast.expr, scope: Scope) -> str:
        """Return the class of *value*; '' if it cannot be told."""
        if isinstance(value, ast.Name):
            return scope.types.get(value.id, "")
        if isinstance(value, ast.Attribute):
            owner = self._type_of(value.value, scope)
            for name in (owner, *self.ancestors(owner)):
                if found := self.types[name].get(value.attr, ""):
                    return found
        if isinstance(value, ast.IfExp):
            return self._type_of(value.body, scope)
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            return self._type_of(value.func, scope)
        return self._made(value)

    def _scope_of(self, node: ast.AST, scope: Scope) -> Scope:
        """Return *scope* with what is known of the names in a function."""
        for each in _nodes(node):
            if isinstance(each, ast.FunctionDef):
                scope.types |= self._parameters(each)
            elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                scope.types[each.target.id] = self._class_in(ast.unparse(each.annotation))
        for each in _nodes(node):
            if isinstance(each, ast.Assign):
                pairs = [(target, each.value) for target in each.targets]
                if isinstance(each.targets[0], ast.Tuple) and isinstance(each.value, ast.Tuple):
                    pairs = list(zip(each.targets[0].elts, each.value.elts, strict=False))
                for target, value in pairs:
                    kind = self._type_of(value, scope)
                    if isinstance(target, ast.Name) and kind:
                        scope.types.setdefault(target.id, kind)
        return scope

    # ----------------------------------------------------------------------------- what is written

    def _read_method(self, name: str, method: ast.FunctionDef, where: str) -> None:
        decorators = [ast.unparse(each) for each in method.decorator_list]
        bound = "staticmethod" not in decorators and method.args.args
        mine = {method.args.args[0].arg: name} if bound else {}
        scope = self._scope_of(method, Scope(name, mine, method.name))
        for each in _nodes(method):
            if isinstance(each, ast.Assign) and isinstance(each.value, ast.Call):
                made = ast.unparse(each.value.func)
                if made in ("cls", "kind", "type(self)") or made.endswith("_new_clone"):
                    scope.types[ast.unparse(each.targets[0])] = name
        self._read(method, scope, where)

    def _read(self, node: ast.AST, scope: Scope, where: str) -> None:
        for each in _nodes(node):
            if not isinstance(each, ast.Attribute) or isinstance(each.ctx, ast.Load):
                continue
            name, text = each.attr, f"{where}:{each.lineno} {ast.unparse(each)}"
            if name.startswith("on_"):
                # a callback, which is there to be set by what uses the object
                continue
            owner = self._type_of(each.value, scope)
            kinds = [owner, *self.ancestors(owner)]
            if scope.writer == owner:
                self.own[owner].add(name)
                if scope.function not in _CONSTRUCTORS:
                    self.writers[owner, name][owner] = text
            elif owner:
                # of the class that declares it
                declares = next((kind for kind in kinds if name in self.types[kind]), owner)
                same = scope.writer in kinds
                self.writers[declares, name][declares if same else scope.writer] = text
            else:
                self.unknown.append((name, scope.writer, text))

    def _settle_unknown(self) -> None:
        """Take the only class that has an attribute of a name for the owner of it."""
        left = []
        for name, writer, text in self.unknown:
            owners = {kind for kind, names in self.own.items() if name in names}
            if len(owners) == 1:
                self.writers[owners.pop(), name][writer] = text
            elif owners and not text.split()[-1].startswith(FOREIGN):
                left.append((name, writer, text))
        self.unknown = left

    def ancestors(self, name: str) -> Iterator[str]:
        """All classes of the package from which *name* is derived."""
        for base in self.bases.get(name, ()):
            if base in self.bases:
                yield base
                yield from self.ancestors(base)

    def of_several_in_a_hierarchy(self) -> list[str]:
        """The attributes that are written by a class and by one of its ancestors."""
        return sorted(
            f"{name} and {base} both write self.{attribute}"
            for name in list(self.own)
            for base in self.ancestors(name)
            for attribute in self.own[name] & self.own[base]
        )

    def of_several(self) -> list[str]:
        """The attributes that are written by several classes, their constructor aside."""
        return sorted(
            f"{owner}.{attribute}: {', '.join(f'{who} ({at})' for who, at in writers.items())}"
            for (owner, attribute), writers in self.writers.items()
            if len(writers) > 1
        )


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@cache
def _nodes(node: ast.AST) -> list[ast.AST]:
    return list(ast.walk(node))


FOUND = Package(PACKAGE)


def test_no_attribute_is_written_by_a_class_and_by_its_base() -> None:
    """Neither in constructors: the base has a method for it."""
    assert FOUND.of_several_in_a_hierarchy() == []


def test_no_attribute_is_written_by_several_classes() -> None:
    """The constructor of its own class aside. The exceptions have reasons, and all are needed."""
    several = FOUND.of_several()
    excepted = {
        line: name
        for line in several
        for name in SHARED
        if line.startswith(f"{name.removesuffix('*')}")
    }
    assert [line for line in several if line not in excepted] == []
    assert set(excepted.values()) == set(SHARED)


def test_the_owner_of_what_is_written_can_be_told() -> None:
    """An annotation says so where it cannot."""
    assert [text for _, _, text in FOUND.unknown] == []


def test_the_check_finds_what_it_is_for(tmp_path: Path) -> None:
    """A second writer in a hierarchy, and one outside it."""
    (tmp_path / "planted.py").write_text(
        "class Base:\n"
        "    def __init__(self) -> None:\n"
        "        self.state = 0\n"
        "    def start(self) -> None:\n"
        "        self.count = 1\n"
        "class Derived(Base):\n"
        "    def end(self) -> None:\n"
        "        self.state = 1\n"
        "class User:\n"
        "    def __init__(self, base: Base) -> None:\n"
        "        self._base = base\n"
        "    def use(self) -> None:\n"
        "        base = self._base\n"
        "        base.count += 1\n"
    )
    found = Package(tmp_path)
    assert found.of_several_in_a_hierarchy() == ["Derived and Base both write self.state"]
    (line,) = found.of_several()
    assert line.startswith("Base.count: Base (planted.py:5 self.count), User (planted.py:14 ")
