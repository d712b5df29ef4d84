"""The services that a server has registered, and what a URI calls of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from ..core.forks import renew_in_child
from .instances import Instances
from .interface import ServiceInterface, ServiceMethod

#: pseudo-methods that each service has
CONTRACT, SIGNATURE, INSTANCE, FREE = "_contract_", "_signature_", "_instance_", "_free_"
#: digits of the number of an instance
_MOST_DIGITS = 11


@dataclass
class RegisteredService:
    """A registered service."""

    interface: ServiceInterface
    instances: Instances
    contract: str
    #: what its contract was computed from; '': nobody is told
    signature: str
    bypass_authentication: bool


@dataclass
class Found:
    """What a URI calls."""

    service: RegisteredService
    #: None: a pseudo-method
    method: ServiceMethod | None
    pseudo: str = ""
    #: the method of the one object of a shared service
    function: Callable[..., Any] | None = None
    number: int = 0


class RegisteredServices:
    """The services of one server, by their names."""

    def __init__(self) -> None:
        #: guards changes of the tables below; calls read them without it
        self._safe = Lock()
        renew_in_child(self, "_safe", Lock)
        #: by the name in lower case, without the ``I``
        self._services: dict[str, RegisteredService] = {}
        #: by ``Interface.Method`` as on the wire, and with the method's name in Python
        self.exact: dict[str, Found] = {}
        #: the same in lower case
        self._any_case: dict[str, Found] = {}

    def add(self, service: RegisteredService, functions: dict[str, Callable[..., Any]]) -> None:
        """Add *service*, with the methods of its one object when it is shared; raise
        ``ValueError`` when its interface is there already.
        """
        name = service.interface.wire_name
        called = {}
        for method in service.interface.methods:
            found = Found(service, method, function=functions.get(method.name))
            called[method.wire_name] = called[f"{name}.{method.name}"] = found
        with self._safe:
            if name.lower() in self._services:
                raise ValueError(
                    f"{name} is registered already: an interface has one implementation"
                )
            self._services[name.lower()] = service
            self._any_case.update({key.lower(): found for key, found in called.items()})
            self.exact.update(called)

    def all(self) -> list[RegisteredService]:
        """Return all services, in the order of their registration."""
        return list(self._services.values())

    def published(self) -> list[Any]:
        """Return what clients are told: name, contract and kind of each service."""
        published: list[Any] = []
        for service in self.all():
            kind = int(service.instances.kind)
            published += (service.interface.wire_name, service.contract, kind)
        return published

    def find(self, name: str, any_case: bool) -> Found | None:
        """Return what *name* calls, the part of a path behind the root; None: nothing known."""
        called, number = name, 0
        head, _, tail = name.rpartition("/")
        if head and tail.isascii() and tail.isdecimal() and len(tail) <= _MOST_DIGITS:
            called, number = head, int(tail)
        if any_case:
            called = called.lower().removesuffix("/")
            if "." not in called:
                called = called.replace("/", ".", 1)
            found = self._any_case.get(called)
        else:
            found = self.exact.get(called)
        if found is not None:
            if not number:
                return found
            return Found(found.service, found.method, "", found.function, number)
        interface, _, pseudo = called.partition(".")
        service = self._services.get(interface.lower())
        if service is None or pseudo not in (CONTRACT, SIGNATURE, INSTANCE, FREE):
            return None
        if not any_case and interface != service.interface.wire_name:
            return None
        return Found(service, None, pseudo, None, number)
