"""Variables of classes, modules and functions: these cannot be copied, so private values take their places.

A method reads an attribute of a class by the name of the class, a global number, a variable of a
module of settings or one of the function around it from where the user has them. They are found by following
the names in the code, and private copies take their places while a private copy of the model is evaluated.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any, Protocol

from lca.frameworks._attributes import Attributes
from lca.frameworks._code import globals_in, imports_in, module_attributes, names_in, stores_attributes
from lca.frameworks._environment import may_change
from lca_torch._copies import Cells, Pair, Trial
from lca_torch._kept_results import users_keeper_in
from lca_torch._libraries import in_library
from lca_torch._originals import Originals
from lca_torch._shared_state import functions_of, is_users
from lca_torch._without_copy import OF_MEMBERS, Environment

DEFAULTS = ("__defaults__", "__kwdefaults__")
_NOT_EVALUATED = frozenset(
    f"__{name}__"
    for name in (
        *("init", "new", "post_init", "init_subclass", "del", "repr", "str", "hash"),
        *("getstate", "setstate", "reduce", "reduce_ex", "copy", "deepcopy"),
    )
)


class SharedVariables(MutableMapping[str, Any]):
    """The variables of one class, module or function: the user's values, and the private ones of a copy.

    Parameters
    ----------
    raw
        The namespace with the present values, by name.
    write, delete
        Set a variable: ``write(name, value)``, and delete one: ``delete(name)``.

    Attributes
    ----------
    private
        The values of those that are followed, in place of the user's while `installed`.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        write: Callable[[str, Any], object],
        delete: Callable[[str], object] | None = None,
    ) -> None:
        self.raw, self._write, self._delete = raw, write, delete
        self.private: dict[str, Any] = {}
        self._size = len(raw)
        self._users: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        return self._users[key] if key in self._users else self.raw[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._write(key, value)

    def __delitem__(self, key: str) -> None:
        raise TypeError("the user's variables cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def takes_names(self) -> bool:
        """Whether new variables may be made, which are gone afterwards."""
        return self._delete is not None

    def install(self) -> None:
        """Put the private values in the places of the user's; again after code has written there."""
        self._put(self.private)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, `install` may be called; afterwards the user's values are where they were."""
        size, late = len(self.raw), islice(list(self.raw), self._size, None)  # new names come last
        self._users = {key: self.raw[key] for key in (*self.private, *late) if key in self.raw}
        try:
            yield
        finally:
            self._put(self._users)
            if len(self.raw) > size and self._delete is not None:
                for key in islice(list(self.raw), size, None):
                    # A name of the builtins is private; an imported module is also in sys.modules.
                    if key in self.private or not (key[:2] == "__" or isinstance(self.raw[key], ModuleType)):
                        self._delete(key)
            self._users = {}

    def _put(self, values: Mapping[str, Any]) -> None:
        get = self.raw.get
        for key, value in values.items():
            if get(key) is not value:
                self._write(key, value)


class Shared(Protocol):
    """What private copies share with the user's objects: as the user has it, but inside `installed`."""

    def install(self) -> None:
        """Begin a pass as the user would."""

    def installed(self) -> AbstractContextManager[None]:
        """A context."""


class Follower:
    """Finds the shared variables that methods and functions may read.

    Parameters
    ----------
    copy
        Makes a private copy of a value, which the user knows under a path.
    originals
        Takes the places of `id` and `hash` in the code that calls them.
    trial
        The state of a copy that is run in training mode.
    """

    def __init__(
        self, copy: Callable[[Any, str], Any], originals: Originals, trial: Trial | None = None
    ) -> None:
        self._copy, self._originals, self._trial = copy, originals, trial
        self._owners: dict[int, SharedVariables] = {}
        self._names: dict[int, str] = {}
        self._seen: dict[Any, Any] = {}
        self._mentioned = {"forward", "train", "eval"}
        self._methods: list[tuple[str, FunctionType]] = []
        self._written: dict[str, set[str]] = {}  # names that code writes in modules of others
        self._stores = False  # whether code sets attributes, which may be new ones
        self._environment: list[Shared] = []

    def add(self, found: type | ModuleType) -> None:
        """Follow a class or module that a variable holds."""
        if isinstance(found, type):
            self.add_class(found)
        else:
            self.add_module(found)

    def add_class(self, kind: type, *, by_name: bool = True) -> None:
        """Follow the variables of a class and its bases, and the methods that are mentioned anywhere.

        A class that is only reached ``by_name`` is followed if it is the user's own, and not if it belongs to
        an installed package.
        """
        for base in (*kind.__mro__, *filter(is_users, type.mro(type(kind)))):
            if id(base) in self._seen or in_library(base.__module__) or (by_name and not is_users(base)):
                continue
            self._seen[id(base)] = base
            write, delete = partial(type.__setattr__, base), partial(type.__delattr__, base)
            owner = self._owner(base, vars(base), write, delete, f"{base.__name__}.")
            for name, value in list(vars(base).items()):
                found = functions_of(value)
                self._methods += [(name, function) for function in found]
                if not (found or name.startswith("__") or _is_bound(value)):
                    self._add(owner, name, frozenset())

    def add_module(self, module: ModuleType, names: frozenset[str] | None = None) -> None:
        """Follow these names in a module of the user's; by default all that are neither code nor modules."""
        if not is_users(module):
            return
        if names is None:
            own = vars(module).items()
            code = (FunctionType, type, ModuleType)
            names = frozenset(n for n, v in own if n[:2] != "__" and not isinstance(v, code))
        owner = self._of_module(module, partial(delattr, module))
        for name in names & vars(module).keys():
            if name not in owner.private and (id(module), name) not in self._seen:
                self._seen[id(module), name] = module
                self._add(owner, name, names)

    def add_function(self, function: FunctionType) -> None:
        """Follow what the code of a function reads from outside."""
        if id(function) in self._seen or in_library(function.__module__ or ""):
            return
        self._seen[id(function)] = function
        names = self.mention(function)
        around, known = Cells(function.__code__.co_freevars, function.__closure__ or ()), function.__globals__
        if around.cells:
            self._add_all(self._owner(function, around, around.__setitem__), frozenset(around), names)
        variables = self._owner(known, known, known.__setitem__, known.__delitem__)
        self._add_all(variables, globals_in(function), names)
        variables.private.update(self._originals.builtins_in(function))
        if function.__dict__:
            own = function.__dict__
            variables = self._owner(own, own, own.__setitem__, own.__delitem__, f"{function.__name__}.")
            self._add_all(variables, frozenset(own), names)
        given = Attributes(function, [key for key in DEFAULTS if getattr(function, key)])
        if len(given):
            owner = self._owner(given, given, given.__setitem__, name=f"{function.__name__}.")
            self._add_all(owner, frozenset(given), names)

    def mention(self, function: FunctionType) -> frozenset[str]:
        """The names in the code of a function: methods of these names may be called by it.

        What it imports when it is called is followed.
        """
        names = frozenset(names_in(function.__code__))
        self._mentioned |= names
        self._stores |= stores_attributes(function)
        for module in imports_in(function):
            self.add_module(module, names)
        if is_users(function):
            self._look_into_modules(function)
        return names

    def _look_into_modules(self, function: FunctionType) -> None:
        """Follow what the user's code writes in modules of others; what it may change there has no copy."""
        for module, name, written in module_attributes(function):
            value = vars(module).get(name)
            if is_users(module):
                continue
            if value is os.environ:
                self._environment = [Environment()]
            elif written:
                names = self._written.setdefault(module.__name__, set())
                names.add(name)
                owner = self._of_module(module, partial(_delete_one_of, module, names))
                self._add_all(owner, frozenset({name}) & vars(module).keys(), frozenset())
            elif self._trial is not None and not in_library(module.__name__) and may_change(value):
                self._trial.obstacles[f"{module.__name__}.{name}"] = None

    def add_attributes(self, found: Any) -> None:
        """Follow the attributes of an object of the user's that has no copy (a member of an enumeration)."""
        own = vars(found)
        owner = self._owner(own, own, own.__setitem__, own.__delitem__, f"{found}.")
        self._add_all(owner, frozenset(own) - OF_MEMBERS, frozenset())

    def finish(self) -> tuple[list[Shared], list[Pair]]:
        """Everything that was found, after following the methods that may be called."""
        while due := [pair for pair in self._methods if self._is_mentioned(pair[0])]:
            self._methods = [pair for pair in self._methods if pair not in due]
            for _, function in due:
                self.add_function(function)
        found = [o for o in self._owners.values() if o.private or (self._stores and o.takes_names)]
        pairs = [Pair(self._names[id(o)], o, o.private, frozenset(o.private)) for o in found if o.private]
        return [*found, *self._environment], pairs

    def _is_mentioned(self, name: str) -> bool:
        return name in self._mentioned or (name.startswith("__") and name not in _NOT_EVALUATED)

    def _of_module(self, module: ModuleType, delete: Callable[[str], object]) -> SharedVariables:
        write = partial(setattr, module)
        return self._owner(module, vars(module), write, delete, f"{module.__name__}.")

    def _owner(
        self,
        of: Any,
        raw: Mapping[str, Any],
        write: Callable[[str, Any], object],
        delete: Callable[[str], object] | None = None,
        name: str = "",
    ) -> SharedVariables:
        if isinstance(of, ModuleType):
            of = vars(of)  # the same variables as the globals of its functions
        if id(of) not in self._owners:
            self._seen[id(of), ""] = of
            self._owners[id(of)] = made = SharedVariables(raw, write, delete)
            self._names[id(made)] = name.removesuffix(".")
        return self._owners[id(of)]

    def _add_all(self, owner: SharedVariables, keys: frozenset[str], names: frozenset[str]) -> None:
        for key in sorted(keys):
            if key not in owner.private:
                self._add(owner, key, names)

    def _add(self, owner: SharedVariables, key: str, names: frozenset[str]) -> None:
        """Follow one variable; what cannot be copied is refused when it is used."""
        value = owner.raw[key]
        if isinstance(value, ModuleType):
            self.add_module(value, names)
            return
        owner.private[key] = value  # it may lead to itself
        if isinstance(value, type):
            self.add_class(value)
        elif isinstance(value, FunctionType):
            self.add_function(value)
        else:
            name = self._names[id(owner)]
            owner.private[key] = self._copy(value, f"{name}.{key}" if name else key)


def _delete_one_of(module: ModuleType, names: Collection[str], name: str) -> None:
    if name in names:
        delattr(module, name)


def _is_bound(member: Any) -> bool:
    """Whether a member of a class belongs to Python; a descriptor of the user's may hold state."""
    kind = type(member)
    return hasattr(kind, "__get__") and not is_users(kind) and users_keeper_in(member) is None


@contextmanager
def installed(variables: Iterable[Shared]) -> Iterator[None]:
    """Inside, private values may take the places of all these."""
    with ExitStack() as stack:
        for shared in variables:
            stack.enter_context(shared.installed())
        yield
