"""A pickle read without running it: a machine for pickle's opcodes that imports nothing and calls nothing of the file.

Functions and classes are known by name alone. The few that tensors and module states are made of stand for the data
they were called with (`core.inert_objects`); any other is refused with its name. What comes out is a tree of plain
values and inert nodes. All sizes stay in proportion to the size of the file: see `Budget`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from core.inert_objects import (
    CALLS,
    DTYPES,
    LONGEST_NAME,
    MENTIONED,
    OBJECTS,
    STORAGES,
    Array,
    ArrayType,
    Budget,
    Instance,
    Name,
    Refused,
    Storage,
    as_bytes,
    as_text,
    checked_key,
    checked_pairs,
    kind_of,
)

PUSHED = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NO_EFFECT = frozenset(["PROTO", "FRAME"])


def _no_storage(identity: Any) -> Storage:
    raise Refused("a persistent object, which only torch's own files have")


def _no_torch_file(content: bytes) -> Storage:
    raise Refused("a torch file within a torch file")


@dataclass(slots=True)
class Machine:
    """Reads one pickle from a stream, up to its STOP.

    Attributes:
        budget: shared by all pickles of a file.
        persistent: persistent id -> storage.
        embedded: bytes of a torch file -> the storage in it.
    """

    budget: Budget
    persistent: Callable[[Any], Storage] = _no_storage
    embedded: Callable[[bytes], Storage] = _no_torch_file
    stack: list[Any] = field(default_factory=list)
    outer: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: IO[bytes]) -> Any:
        """The tree of the next pickle in the stream.

        Raises:
            Refused: it asks for something that is not data.
            ValueError, IndexError, KeyError, TypeError: it is damaged.
        """
        self.stack, self.outer, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name in PUSHED:
                self.stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name in EMPTY:
                self.stack.append(EMPTY[name]())
            elif name in SHORT_TUPLES:
                count = SHORT_TUPLES[name]
                items = [self.stack.pop() for _ in range(count)]
                self.stack.append(tuple(reversed(items)))
            elif name == "STOP":
                return self.stack.pop()
            elif name not in NO_EFFECT:
                step = STEPS.get(name)
                if step is None:
                    asked = f" {argument}" if isinstance(argument, str) else ""
                    raise Refused(f"the opcode {name}{asked}"[:LONGEST_NAME])
                step(self, argument)
        raise ValueError("no end")

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._marked()

    def pop_mark(self, _: Any) -> None:
        self._marked()

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(map(checked_key, items))
        else:
            raise Refused(f"items for a {kind_of(target)}")

    def assign(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused(f"items for a {kind_of(target)}")
        for key, value in checked_pairs(items):
            target[key] = value

    def name(self, text: Any) -> None:
        """Push what the file names, if it is known."""
        known = text in CALLS or text in STORAGES or text in DTYPES or OBJECTS.fullmatch(text)
        if not known and not MENTIONED.fullmatch(text):
            raise Refused(ascii(text[:LONGEST_NAME])[1:-1])
        self.stack.append(Name(text))

    def stack_global(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(attribute, str) or not isinstance(module, str):
            raise Refused("a function without a name")
        self.name(f"{module}.{attribute}")

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or function.text not in CALLS or not isinstance(arguments, tuple):
            raise Refused(f"a call of {kind_of(function)}")
        self.budget.spend(len(arguments))
        self.stack.append(CALLS[function.text](self, *arguments))

    def new(self, _: Any) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Name) or not OBJECTS.fullmatch(kind.text) or arguments != ():
            raise Refused(f"an instance of {kind_of(kind)}")
        self.stack.append(Instance())

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Instance):
            for part in state if isinstance(state, tuple) else (state,):
                if not isinstance(part, dict | None):
                    raise Refused(f"a state of {kind_of(part)}")
                self.budget.spend(len(part or ()))
                target.update(part or {})
        elif isinstance(target, ArrayType):
            target.order = as_text(state[1])
        elif isinstance(target, Array):
            _, target.shape, target.dtype, target.fortran, raw = state
            target.raw = as_bytes(self, raw)
        else:
            raise Refused(f"a state for {kind_of(target)}")


STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "LIST": lambda machine, _: _push(machine, machine._marked()),
    "TUPLE": lambda machine, _: _push(machine, tuple(machine._marked())),
    "DICT": lambda machine, _: _push(machine, dict(checked_pairs(machine._marked()))),
    "FROZENSET": lambda machine, _: _push(machine, set(map(checked_key, machine._marked()))),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine._marked()),
    "ADDITEMS": lambda machine, _: machine.extend(machine._marked()),
    "SETITEM": lambda machine, _: machine.assign([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.assign(machine._marked()),
    "PUT": Machine.put,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": Machine.memoize,
    "GET": Machine.get,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "GLOBAL": lambda machine, text: machine.name(str(text).replace(" ", ".", 1)),
    "STACK_GLOBAL": Machine.stack_global,
    "REDUCE": Machine.reduce,
    "NEWOBJ": Machine.new,
    "BUILD": Machine.build,
    "BINPERSID": lambda machine, _: _push(machine, machine.persistent(machine.stack.pop())),
}
"""What the opcodes do that do more than push. Those of old protocols that call classes, of the extension registry and
of out-of-band buffers are missing: refused."""


def _push(machine: Machine, value: Any) -> None:
    machine.stack.append(value)
