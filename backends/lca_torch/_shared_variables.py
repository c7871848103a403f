"""Variables of classes, modules and functions: these cannot be copied, so private values take their places.

A method reads an attribute of a class by the name of the class, a global number, a variable of a
module of settings or one of the function around it from where the user has them. They are found by following
the names in the code, and private copies take their places while a private copy of the model is evaluated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from lca.frameworks._attributes import Attributes
from lca.frameworks._code import globals_in, names_in
from lca_torch._copies import Cells, FindsTensors, Pair, Uncopied
from lca_torch._kept_results import users_keeper_in
from lca_torch._libraries import in_library
from lca_torch._originals import Originals
from lca_torch._shared_state import functions_of, is_users

DEFAULTS = ("__defaults__", "__kwdefaults__")
_NOT_EVALUATED = frozenset(
    f"__{name}__"
    for name in (
        *("init", "new", "post_init", "init_subclass", "del", "repr", "str", "hash"),
        *("getstate", "setstate", "reduce", "reduce_ex", "copy", "deepcopy"),
    )
)
_BY_IDENTITY = (FunctionType, BuiltinFunctionType, type)


class SharedVariables(MutableMapping[str, Any]):
    """The variables of one class, module or function: the user's values, and the private ones of a copy.

    Parameters
    ----------
    raw
        The namespace with the present values, by name.
    write
        Sets a variable: ``write(name, value)``.

    Attributes
    ----------
    private
        The values of those that are followed, in place of the user's while `installed`.
    """

    def __init__(self, raw: Mapping[str, Any], write: Callable[[str, Any], object]) -> None:
        self.raw, self._write = raw, write
        self.private: dict[str, Any] = {}
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

    def install(self) -> None:
        """Put the private values in the places of the user's; again after code has written there."""
        self._put(self.private)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, `install` may be called; afterwards the user's values are where they were."""
        self._users = {key: self.raw[key] for key in self.private if key in self.raw}
        try:
            yield
        finally:
            self._put(self._users)
            if isinstance(self.raw, dict):
                for key in self.private.keys() - self._users.keys():  # such as a name of the builtins
                    self.raw.pop(key, None)
            self._users = {}

    def _put(self, values: Mapping[str, Any]) -> None:
        get = self.raw.get
        for key, value in values.items():
            if get(key) is not value:
                self._write(key, value)


class Follower:
    """Finds the shared variables that methods and functions may read.

    Parameters
    ----------
    copy
        Makes a private copy of a value, which the user knows under a path.
    originals
        Takes the places of `id` and `hash` in the code that calls them.
    """

    def __init__(self, copy: Callable[[Any, str], Any], originals: Originals) -> None:
        self._copy, self._originals = copy, originals
        self._owners: dict[int, SharedVariables] = {}
        self._names: dict[int, str] = {}
        self._seen: dict[Any, Any] = {}
        self._mentioned = {"forward"}
        self._methods: list[tuple[str, FunctionType]] = []

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
        for base in kind.__mro__:
            if id(base) in self._seen or in_library(base.__module__) or (by_name and not is_users(base)):
                continue
            self._seen[id(base)] = base
            owner = self._owner(base, vars(base), partial(type.__setattr__, base), f"{base.__name__}.")
            for name, value in list(vars(base).items()):
                found = functions_of(value)
                self._methods += [(name, function) for function in found]
                if not (found or name.startswith("__") or _is_bound(value)):
                    self._add(owner, name, frozenset(), shared=True)

    def add_module(self, module: ModuleType, names: frozenset[str] | None = None) -> None:
        """Follow these names in a module of the user's; by default all that are neither code nor modules."""
        if not is_users(module):
            return
        if names is None:
            own = vars(module).items()
            code = (*_BY_IDENTITY, ModuleType)
            names = frozenset(n for n, v in own if n[:2] != "__" and not isinstance(v, code))
        owner = self._owner(module, vars(module), partial(setattr, module), f"{module.__name__}.")
        for name in names & vars(module).keys():
            if name not in owner.private and (id(module), name) not in self._seen:
                self._seen[id(module), name] = module
                self._add(owner, name, names, shared=True)

    def add_function(self, function: FunctionType) -> None:
        """Follow what the code of a function reads from outside."""
        if id(function) in self._seen or in_library(function.__module__ or ""):
            return
        self._seen[id(function)] = function
        names = self.mention(function)
        around, known = Cells(function.__code__.co_freevars, function.__closure__ or ()), function.__globals__
        if around.cells:
            self._add_all(self._owner(function, around, around.__setitem__), frozenset(around), names)
        variables = self._owner(known, known, known.__setitem__)
        self._add_all(variables, globals_in(function), names)
        variables.private.update(self._originals.builtins_in(function))
        if function.__dict__:
            own = function.__dict__
            self._add_all(
                self._owner(own, own, own.__setitem__, f"{function.__name__}."), frozenset(own), names
            )
        given = Attributes(function, [key for key in DEFAULTS if getattr(function, key)])
        if len(given):
            owner = self._owner(given, given, given.__setitem__, f"{function.__name__}.")
            self._add_all(owner, frozenset(given), names)

    def mention(self, function: FunctionType) -> frozenset[str]:
        """The names in the code of a function: methods of these names may be called by it."""
        names = frozenset(names_in(function.__code__))
        self._mentioned |= names
        return names

    def finish(self) -> tuple[list[SharedVariables], list[Pair]]:
        """Everything that was found, after following the methods that may be called."""
        while due := [pair for pair in self._methods if self._is_mentioned(pair[0])]:
            self._methods = [pair for pair in self._methods if pair not in due]
            for _, function in due:
                self.add_function(function)
        found = [owner for owner in self._owners.values() if owner.private]
        pairs = [Pair(self._names[id(o)], o, o.private, frozenset(o.private)) for o in found]
        return found, pairs

    def _is_mentioned(self, name: str) -> bool:
        return name in self._mentioned or (name.startswith("__") and name not in _NOT_EVALUATED)

    def _owner(
        self, of: Any, raw: Mapping[str, Any], write: Callable[[str, Any], object], name: str = ""
    ) -> SharedVariables:
        if isinstance(of, ModuleType):
            of = vars(of)  # the same variables as the globals of its functions
        if id(of) not in self._owners:
            self._seen[id(of), ""] = of
            self._owners[id(of)] = made = SharedVariables(raw, write)
            self._names[id(made)] = name.removesuffix(".")
        return self._owners[id(of)]

    def _add_all(self, owner: SharedVariables, keys: frozenset[str], names: frozenset[str]) -> None:
        for key in sorted(keys):
            if key not in owner.private:
                self._add(owner, key, names)

    def _add(self, owner: SharedVariables, key: str, names: frozenset[str], *, shared: bool = False) -> None:
        """Follow one variable; what cannot be copied is refused when it is used, or stays ``shared``.

        What finds tensors is always refused: it would not find those of the copy.
        """
        value = owner.raw[key]
        if isinstance(value, ModuleType):
            self.add_module(value, names)
            return
        owner.private[key] = value  # it may lead to itself
        if isinstance(value, type):
            self.add_class(value)
        elif isinstance(value, FunctionType):
            self.add_function(value)
        elif not isinstance(value, _BY_IDENTITY):
            name = self._names[id(owner)]
            private = self._copy(value, f"{name}.{key}" if name else key)
            if not shared or isinstance(private, FindsTensors) or not isinstance(private, Uncopied):
                owner.private[key] = private


def _is_bound(member: Any) -> bool:
    """Whether a member of a class belongs to Python; a descriptor of the user's may hold state."""
    kind = type(member)
    return hasattr(kind, "__get__") and not is_users(kind) and users_keeper_in(member) is None


@contextmanager
def installed(variables: Iterable[SharedVariables]) -> Iterator[None]:
    """Inside, private values may take the places of all these."""
    with ExitStack() as stack:
        for shared in variables:
            stack.enter_context(shared.installed())
        yield
