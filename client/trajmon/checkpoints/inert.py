"""Pickles read as data: nothing in them is imported, called or built.

A pickle is a program for a stack machine. This is that machine without its dangerous part: where Python's
looks a name up and calls it, this one notes that a thing of this name was called with these arguments
(:class:`Opaque`). Only Python's own containers, and what the caller's `rebuild` makes of names that it knows,
come out as themselves. The opcodes are told apart by the standard library's pickletools, which runs nothing.

Whatever a pickle names can therefore do no harm here. A pickle that names a function of the standard library
that has no place in a checkpoint (``os.system``, ``builtins.eval``, …) is refused all the same: whoever loads
that file with another program should be told.
"""

from __future__ import annotations

import _compat_pickle
import io
import pickletools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

__all__ = ["ForbiddenNameError", "InertPickleError", "Name", "Opaque", "load_inert", "loads_inert"]

_MAX_OPCODES: Final = 50_000_000
_MARK: Final = object()
# Of the standard library: these modules, and these names, stand for plain data.
_DATA_MODULES: Final = frozenset(
    {"collections", "datetime", "decimal", "enum", "fractions", "pathlib", "uuid", "zoneinfo", "ipaddress"}
)
_DATA_NAMES: Final = frozenset(
    {
        ("builtins", name)
        for name in (
            *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list"),
            *("object", "range", "set", "slice", "str", "tuple", "type", "NoneType", "Ellipsis"),
        )
    }
    | {
        ("_codecs", "encode"),
        ("argparse", "Namespace"),
        ("array", "_array_reconstructor"),
        ("array", "array"),
        ("copyreg", "__newobj__"),
        ("copyreg", "__newobj_ex__"),
        ("copyreg", "_reconstructor"),
        ("functools", "partial"),
        ("inspect", "_empty"),
        ("re", "_compile"),
        ("time", "struct_time"),
        ("types", "SimpleNamespace"),
    }
)


class InertPickleError(Exception):
    """Not a pickle that this machine can follow."""


class ForbiddenNameError(InertPickleError):
    """The pickle names something that has no place in a checkpoint."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names. It is not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Opaque:
    """What Python would have built by a call."""

    kind: object
    """A :class:`Name`, or what the pickle put in its place."""
    args: tuple[Any, ...] = ()
    state: object = None
    """What was given to build it from."""
    items: list[Any] = field(default_factory=list)
    """What was appended to it."""
    pairs: dict[Any, Any] = field(default_factory=dict)
    """What was set in it."""


def load_inert(
    file: BinaryIO,
    rebuild: Callable[[Name, tuple[Any, ...]], object],
    persistent: Callable[[object], object],
    allow: Callable[[Name], bool] = lambda _: True,
) -> Any:
    """Read one pickle from where the file stands; the file stands behind it afterwards.

    `rebuild` is asked for what each call of a name gives, and answers NotImplemented for names that it does not know;
    `persistent` for what each persistent id stands for; `allow` may refuse names. Raises InertPickleError.
    """
    machine = _Machine(rebuild, persistent, allow)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MAX_OPCODES:
                raise InertPickleError(f"more than {_MAX_OPCODES} instructions")
            machine.step(opcode.name, argument)
        return machine.result()
    except InertPickleError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, EOFError) as error:
        # The stack does not hold what an instruction needs, or the text ends early.
        raise InertPickleError(f"not a whole pickle: {error}") from error


def _plain(name: Name, args: tuple[Any, ...]) -> object:
    """Python's own containers; NotImplemented for anything else."""
    match (name.module, name.name):
        case ("collections", "OrderedDict") | ("builtins", "dict"):
            return dict(*args)
        case ("collections", "defaultdict"):
            return {}
        case ("builtins", "set" | "frozenset" | "list" | "tuple") if len(args) == 1 and isinstance(
            args[0], list | tuple
        ):
            return list(args[0]) if name.name in ("list", "set") else tuple(args[0])
    return NotImplemented


def _checked(module: str, name: str) -> Name:
    """The name as Python 3 has it. Raises ForbiddenNameError."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    top = module.partition(".")[0]
    if (
        top in sys.stdlib_module_names
        and top not in _DATA_MODULES
        and (module, name) not in _DATA_NAMES
        and not (module == "builtins" and name.endswith(("Error", "Exception", "Warning")))
    ):
        raise ForbiddenNameError(f"{module}.{name}")
    return Name(module, name)


class _Machine:
    def __init__(
        self,
        rebuild: Callable[[Name, tuple[Any, ...]], object],
        persistent: Callable[[object], object],
        allow: Callable[[Name], bool],
    ) -> None:
        self._allow = allow
        self._rebuild = rebuild
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._done = False

    def result(self) -> Any:
        if not self._done or len(self._stack) != 1:
            raise InertPickleError("not a whole pickle: it leaves other than one value")
        return self._stack[0]

    def step(self, code: str, argument: Any) -> None:
        """Follow one instruction."""
        simple = _SIMPLE.get(code)
        if simple is not None:
            simple(self, argument)
        elif code in _VALUES:
            self._stack.append(argument)
        else:
            raise InertPickleError(f"instruction {code} has no place in a checkpoint")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise InertPickleError("not a whole pickle: a mark stands where a value is needed")
        return value

    def _pop_to_mark(self) -> list[Any]:
        stack = self._stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                values = stack[index + 1 :]
                del stack[index:]
                return values
        raise InertPickleError("not a whole pickle: a mark is missing")

    def _call(self, kind: object, args: object) -> object:
        if not isinstance(args, tuple):
            raise InertPickleError("not a whole pickle: a call has no arguments")
        if isinstance(kind, Name):
            for made in (_plain(kind, args), self._rebuild(kind, args)):
                if made is not NotImplemented:
                    return made
            if kind.module == "copyreg" and kind.name in ("__newobj__", "_reconstructor") and args:
                return Opaque(args[0], args[1:])
        return Opaque(kind, args)

    def _named(self, module: str, name: str) -> Name:
        found = _checked(module, name)
        if not self._allow(found):
            raise ForbiddenNameError(str(found))
        return found

    def put(self, value: object) -> None:
        self._stack.append(value)

    def mark(self, _: object) -> None:
        self._stack.append(_MARK)

    def name(self, argument: str) -> None:
        # pickletools puts a space between the two lines; neither holds one in a name that can be imported.
        module, _, name = argument.partition(" ")
        self.put(self._named(module, name))

    def stack_name(self, _: object) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise InertPickleError("not a whole pickle: a name is no text")
        self.put(self._named(module, name))

    def reduce(self, _: object) -> None:
        args, kind = self._pop(), self._pop()
        self.put(self._call(kind, args))

    def new_object(self, _: object) -> None:
        args, kind = self._pop(), self._pop()
        self.put(self._call(kind, args))

    def new_object_ex(self, _: object) -> None:
        keywords, args, kind = self._pop(), self._pop(), self._pop()
        self.put(Opaque(kind, (*args, keywords)))

    def instance(self, argument: str) -> None:
        values = tuple(self._pop_to_mark())
        module, _, name = argument.partition(" ")
        self.put(self._call(self._named(module, name), values))

    def object_of_class(self, _: object) -> None:
        kind, *values = self._pop_to_mark()
        self.put(self._call(kind, tuple(values)))

    def build(self, _: object) -> None:
        state = self._pop()
        target = self._stack[-1]
        # The attributes of a dict (a state dict's `_metadata`) are not needed.
        if isinstance(target, Opaque):
            target.state = state

    def persistent_id(self, _: object) -> None:
        self.put(self._persistent(self._pop()))

    def persistent_text(self, argument: str) -> None:
        self.put(self._persistent(argument))

    def append(self, _: object) -> None:
        value = self._pop()
        self._extend([value])

    def appends(self, _: object) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Opaque):
            target.items += values
        elif isinstance(target, list):
            target += values
        else:
            raise InertPickleError("not a whole pickle: something is appended to what is no list")

    def set_item(self, _: object) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def set_items(self, _: object) -> None:
        self._update(self._pop_to_mark())

    def _update(self, flat: list[Any]) -> None:
        target = self._stack[-1]
        pairs = target.pairs if isinstance(target, Opaque) else target
        if not isinstance(pairs, dict):
            raise InertPickleError("not a whole pickle: something is set in what is no dict")
        pairs.update(zip(flat[::2], flat[1::2], strict=True))

    def make_list(self, _: object) -> None:
        self.put(self._pop_to_mark())

    def make_tuple(self, _: object) -> None:
        self.put(tuple(self._pop_to_mark()))

    def make_dict(self, _: object) -> None:
        flat = self._pop_to_mark()
        self.put(dict(zip(flat[::2], flat[1::2], strict=True)))

    def short_tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self.put(tuple(reversed(values)))

    def store(self, argument: int) -> None:
        self._memo[int(argument)] = self._stack[-1]

    def memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def fetch(self, argument: int) -> None:
        self.put(self._memo[int(argument)])

    def drop(self, _: object) -> None:
        self._stack.pop()

    def drop_to_mark(self, _: object) -> None:
        self._pop_to_mark()

    def duplicate(self, _: object) -> None:
        self.put(self._stack[-1])

    def ignore(self, _: object) -> None:
        """Frames and versions."""

    def stop(self, _: object) -> None:
        self._done = True


# Instructions whose argument is the value itself.
_VALUES: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    }
)
_SIMPLE: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": _Machine.ignore,
    "FRAME": _Machine.ignore,
    "STOP": _Machine.stop,
    "NONE": lambda machine, _: machine.put(None),
    "NEWTRUE": lambda machine, _: machine.put(True),
    "NEWFALSE": lambda machine, _: machine.put(False),
    "EMPTY_LIST": lambda machine, _: machine.put([]),
    "EMPTY_DICT": lambda machine, _: machine.put({}),
    "EMPTY_TUPLE": lambda machine, _: machine.put(()),
    # A set may hold what has no hash here: a list serves as well.
    "EMPTY_SET": lambda machine, _: machine.put([]),
    "ADDITEMS": _Machine.appends,
    "FROZENSET": _Machine.make_tuple,
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": _Machine.duplicate,
    "GET": _Machine.fetch,
    "BINGET": _Machine.fetch,
    "LONG_BINGET": _Machine.fetch,
    "PUT": _Machine.store,
    "BINPUT": _Machine.store,
    "LONG_BINPUT": _Machine.store,
    "MEMOIZE": _Machine.memoize,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "LIST": _Machine.make_list,
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "DICT": _Machine.make_dict,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_of_class,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_ex,
    "PERSID": _Machine.persistent_text,
    "BINPERSID": _Machine.persistent_id,
}


def loads_inert(
    data: bytes,
    rebuild: Callable[[Name, tuple[Any, ...]], object],
    persistent: Callable[[object], object],
) -> Any:
    """As :func:`load_inert`, from bytes.

    >>> import pickle
    >>> from fractions import Fraction
    >>> from trajmon.checkpoints.inert import loads_inert
    >>> made = loads_inert(pickle.dumps({"a": [1, Fraction(1, 2)]}), lambda name, args: NotImplemented, lambda key: key)
    >>> made["a"][0], made["a"][1].kind
    (1, Name(module='fractions', name='Fraction'))
    """
    return load_inert(io.BytesIO(data), rebuild, persistent)
