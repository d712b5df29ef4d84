"""The registered services of a server, and the lookup of what a URI calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from ..core.forks import renew_in_child
from .instances import Instances
from .interface import ServiceInterface, ServiceMethod

#: the pseudo-methods of each service
CONTRACT, SIGNATURE, INSTANCE, FREE = "_contract_", "_signature_", "_instance_", "_free_"
#: the maximum number of digits of an instance's number
_MOST_DIGITS = 11


@dataclass
class RegisteredService:
    """A registered service."""

    interface: ServiceInterface
    instances: Instances
    contract: str
    #: the text from which its contract was computed; '': not published
    signature: str
    bypass_authentication: bool


@dataclass
class Found:
    """The target of a URI."""

    service: RegisteredService
    #: the method; None: a pseudo-method
    method: ServiceMethod | None
    pseudo: str = ""
    #: the bound method of the object of a shared service
    function: Callable[..., Any] | None = None
    number: int = 0


class RegisteredServices:
    """The services of a server, by name."""

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
        """Add *service*, with the methods of its object if it is shared.

        Raises ``ValueError`` if its interface is already registered.
        """
        name = service.interface.wire_name
        called = {}
        for method in service.interface.methods:
            found = Found(service, method, function=functions.get(method.name))
            called[method.wire_name] = called[f"{name}.{method.name}"] = found
        with self._safe:
            if name.lower() in self._services:
                raise ValueError(
                    f"{name} is already registered: an interface can have only one implementation"
                )
            self._services[name.lower()] = service
            self._any_case.update({key.lower(): found for key, found in called.items()})
            self.exact.update(called)

    def all(self) -> list[RegisteredService]:
        """Return all services, in order of registration."""
        return list(self._services.values())

    def published(self) -> list[Any]:
        """Return the list for clients: name, contract and kind of each service."""
        published: list[Any] = []
        for service in self.all():
            kind = int(service.instances.kind)
            published += (service.interface.wire_name, service.contract, kind)
        return published

    def find(self, name: str, any_case: bool) -> Found | None:
        """Return the target of *name*, the part of a path after the root; None: unknown."""
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
