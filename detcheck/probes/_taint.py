"""Can the batch reach the order in which a kernel adds? A pass over its intermediate code.

Every value carries what of the batch it depends on, and how. A program's id, or an offset, that is *uniform* over a tile only
says which rows are read, and is harmless. Harm is in the *pattern*: along an axis (of a tile, or the iterations of a loop that
accumulates) the way a value varies depends on the batch: a mask, a start that wraps around, a loop's bound. A pattern along an
axis that is added up means that the batch decides what is added when. Along the axis of rows it is the usual mask of rows
that are not there.

Sources of the batch: the arguments that the signature names, what is loaded through pointers it names, the number of programs,
and the ids of programs along the axes it names. What is found is said with its line; what the pass does not know is said to be
unclear, never taken for harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from detcheck.kernels._signature import Signature
from detcheck.probes._marks import NONE, OF_ROW, Axis, Mark, names, placed, renumbered, union, without
from detcheck.probes._ttir import Block, Function, Op, Place, Value

AXES = "xyz"  # as Triton's code calls the axes of the grid


@dataclass(frozen=True)
class Found:
    """Something that speaks against the kernel. `refutes`: it is enough; otherwise it is only not clear."""

    refutes: bool
    what: str
    place: Place
    rule: Op | None = None
    """the loop that attention's rule may excuse"""


LINEAR = {
    "arith.addi", "arith.subi", "arith.muli", "arith.extsi", "arith.extui", "arith.index_cast", "arith.bitcast",
    "tt.addptr", "tt.bitcast", "tt.ptr_to_int", "tt.int_to_ptr", "arith.addf", "arith.subf", "arith.mulf", "arith.divf", "arith.negf",
    "arith.extf", "arith.truncf", "arith.maximumf", "arith.minimumf", "arith.maxnumf", "arith.minnumf", "arith.remf", "tt.fp_to_fp",
    "tt.precise_sqrt", "tt.precise_divf", "tt.clampf", "tt.assert", "tt.print", "llvm.intr.assume",
}  # fmt: skip
BENDING = {
    "arith.divsi", "arith.divui", "arith.remsi", "arith.remui", "arith.ceildivsi", "arith.floordivsi", "arith.minsi", "arith.maxsi",
    "arith.minui", "arith.maxui", "arith.shli", "arith.shrsi", "arith.shrui", "arith.trunci", "tt.mulhiui", "math.absi", "math.ctpop",
    "math.ctlz", "math.cttz",
}  # fmt: skip
LOGIC = {"arith.andi", "arith.ori", "arith.xori"}
SILENT = {
    "tt.return",
    "scf.yield",
    "scf.condition",
    "tt.reduce.return",
    "tt.scan.return",
    "gpu.barrier",
    "ttg.barrier",
    "tt.map_elementwise.return",
}


@dataclass
class Pass:
    """One function, walked through until nothing changes."""

    signature: Signature
    found: dict[tuple[str, Place], Found] = field(default_factory=dict)
    marks: dict[Value, Mark] = field(default_factory=dict)
    makers: dict[Value, Op] = field(default_factory=dict)
    users: dict[Value, list[Op]] = field(default_factory=dict)
    carried_from: dict[Value, Value] = field(default_factory=dict)
    """what a loop carries -> what it starts with"""
    written: dict[str, dict[Op, frozenset[str]]] = field(default_factory=dict)
    """pointer -> where it is written -> what of the batch decides whether"""
    atomics: set[str] = field(default_factory=set)
    loaded: dict[str, Op] = field(default_factory=dict)
    """pointer -> where floats are read from it"""
    _loops: list[Op] = field(default_factory=list)
    _guards: list[frozenset[str]] = field(default_factory=list)

    def run(self, function: Function) -> list[Found]:
        """What speaks against the kernel, the worst first; nothing, where nothing reaches the order in which it adds."""
        self.makers = {value: op for op in function.walk() for value in op.results}
        for op in function.walk():
            for value in op.operands:
                self.users.setdefault(value, []).append(op)
        for value in function.arguments:
            name = value.name.removeprefix("%")
            if name in self.signature.batch:
                sources = frozenset({name})
                number, gate = (sources if value.is_float else NONE), (sources if value.element == "i1" else NONE)
                self.marks[value] = Mark(sources, number=number, gate=gate)
        self._blocks(function.blocks)
        for pointer in sorted(self.atomics & self.loaded.keys()):
            self._unclear(
                f"{pointer} is both read and changed by atomics: what a program finds there is not known",
                self.loaded[pointer],
            )
        return sorted(self.found.values(), key=lambda f: (not f.refutes, f.place.file, f.place.line))

    def _blocks(self, blocks: Sequence[Block]) -> None:
        """Several blocks: an early return. Other jumps are not followed."""
        ends = {b.label for b in blocks if [op.name for op in b.ops] == ["tt.return"]}
        for block in blocks:
            for op in block.ops:
                if op.name == "cf.cond_br":
                    if not ends & set(op.targets):
                        self._unclear("a jump that is no early return is not followed", op)
                elif op.name == "cf.br":
                    self._unclear("a jump is not followed", op) if op.operands else None
                else:
                    self._op(op)

    def _body(self, region: Sequence[Block]) -> list[Mark]:
        """Marks of what the region yields."""
        for block in region:
            for op in block.ops:
                self._op(op)
        last = region[-1].ops[-1] if region[-1].ops else None
        return [self._of(v) for v in last.operands] if last else []

    def _of(self, value: Value) -> Mark:
        return self.marks.get(value, Mark())

    def _add(self, refutes: bool, what: str, op: Op, rule: Op | None = None) -> None:
        key = (what, op.place)
        if key not in self.found or refutes:
            self.found[key] = Found(refutes, what, op.place, rule)

    def _refuted(self, what: str, op: Op, rule: Op | None = None) -> None:
        self._add(True, what, op, rule)

    def _unclear(self, what: str, op: Op) -> None:
        self._add(False, what, op)

    def _op(self, op: Op) -> None:
        inputs = [self._of(v) for v in op.operands]
        special: Callable[[Op, list[Mark]], list[Mark]] | None = getattr(self, "_" + re.sub(r"\W", "_", op.name), None)
        if special:
            made = special(op, inputs)
        elif op.name in BENDING:
            made = [union(inputs).bent()] * len(op.results)
        elif op.name in ("arith.fptosi", "arith.fptoui"):  # a number of the row's, whatever masks it went through
            made = [replace(inputs[0], batch=inputs[0].number, crooked=NONE, data=True, constant=False)]
        elif op.name in LINEAR or op.name.startswith("math."):
            made = self._side_by_side(op, inputs, self._with_numbers(op, inputs))
            made = [replace(made, constant=False)] * len(op.results)
        elif op.name in ("arith.cmpi", "arith.cmpf"):
            made = [self._compared(op, union(inputs).compared())]
        elif op.name in LOGIC:
            whole = union(inputs)
            made = [whole if op.results[0].element == "i1" else whole.bent()]
        elif op.name in SILENT:
            return
        elif op.regions or any(m.batch for m in inputs):
            self._unclear(f"{op.name} is not known to this version of detcheck", op)
            made = [union(inputs).bent()] * len(op.results)
        else:
            self._unclear(f"{op.name} is not known to this version of detcheck", op)
            made = [union(inputs)] * len(op.results)
        for value, mark in zip(op.results, made, strict=False):
            self.marks[value] = mark

    def _side_by_side(self, op: Op, inputs: list[Mark], made: Mark) -> Mark:
        """Which axes hold rows of the batch. A loop's counter plus a count goes along what is added, and is none of them."""
        if op.name == "arith.addi" and not any(isinstance(axis, Op) for axis in made.varies):
            a, b = inputs
            apart = (b.varies - a.varies if a.batch else NONE) | (a.varies - b.varies if b.batch else NONE)
            return replace(made, summed=made.summed | apart)
        return replace(made, rows=made.rows | made.summed) if op.name == "arith.muli" else made

    def _compared(self, op: Op, made: Mark) -> Mark:
        """A comparison that varies is a mask, and one with a program's place a guard; of the batch's size alone it is a switch."""
        arguments = frozenset(n for n in made.batch if not placed(n))
        if arguments and not made.varies and not any(map(placed, made.batch)) and not self._only_assumed(op):
            return replace(made, gate=made.gate | arguments)
        return made

    def _only_assumed(self, op: Op) -> bool:
        """What is only stated (tl.assume) chooses nothing."""
        return all(user.name in ("llvm.intr.assume", "tt.assert") for user in self.users.get(op.results[0], ()))

    def _switched(self, mark: Mark, what: str, op: Op) -> None:
        if mark.gate:
            self._unclear(f"{what} is switched by {names(mark.gate)}, whatever the row", op)

    @staticmethod
    def _with_numbers(op: Op, inputs: list[Mark]) -> Mark:
        """A float that is made of an integer, bit by bit, has what the integer has in its number, and the other way round."""
        made = union(inputs)
        if op.name in ("arith.bitcast", "tt.bitcast") and op.operands[0].is_float and not op.results[0].is_float:
            return replace(made, batch=made.number, crooked=NONE, data=True)
        if op.results and op.results[0].is_float:
            for value, mark in zip(op.operands, inputs, strict=True):
                if re.fullmatch(r"[iu]\d+", value.element):
                    made = replace(made, number=made.number | mark.batch)
        return made

    # Where values come from.
    def _arith_constant(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        return [Mark(constant=True)]

    def _ub_poison(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        return [Mark(constant=True)]

    def _tt_make_range(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        return [Mark(varies=frozenset({0}))]

    def _tt_get_program_id(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        axis = AXES.index(op.text.split()[1])
        return [Mark(frozenset({f"program_id({axis})"}) if axis in self.signature.batch_axes else NONE)]

    def _tt_get_num_programs(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        axis = AXES.index(op.text.split()[1])
        return [Mark(frozenset({f"num_programs({axis})"}) if axis in self.signature.batch_axes else NONE)]

    # Shapes.
    def _tt_splat(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        return inputs

    _tt_broadcast = _tt_unsplat = _tt_splat

    def _tt_expand_dims(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        new = int(op.attribute("axis"))
        return [renumbered(inputs[0], lambda axis: axis + (axis >= new))]

    def _tt_trans(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        order = [int(word) for word in re.search(r"order = array<i32: ([\d, ]+)>", op.text).group(1).split(",")]
        return [renumbered(inputs[0], order.index)]

    def _tt_reshape(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        return [self._spread(inputs[0], op.results[0].rank)]

    def _tt_join(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        mark = union(inputs)
        return [replace(mark, varies=mark.varies | {op.results[0].rank - 1}, constant=False)]

    def _tt_split(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        gone = op.operands[0].rank - 1
        return [renumbered(inputs[0], lambda axis: None if axis == gone else axis)] * 2

    def _tt_cat(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        return [self._spread(union(inputs), op.results[0].rank)]

    def _tt_gather(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        """Whichever elements the indices name, in whichever order."""
        made = self._spread(union(inputs), op.results[0].rank)
        everywhere = frozenset(range(op.results[0].rank))
        return [replace(made, pattern=made.pattern | everywhere) if inputs[1].batch else made]

    @staticmethod
    def _spread(mark: Mark, rank: int) -> Mark:
        """Behind a change of shape it is not known which axis was which: any of them."""

        def spread(axes: frozenset[Axis]) -> frozenset[Axis]:
            loops = frozenset(a for a in axes if not isinstance(a, int))
            return loops | (frozenset(range(rank)) if loops != axes else NONE)

        axes = {name: spread(getattr(mark, name)) for name in ("varies", "pattern", "summed", "rows")}
        return replace(mark, **axes)

    # Memory.
    def _tt_load(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        address, *rest = inputs
        mask = rest[0] if rest else Mark()
        self._against_loops(address, "the address of what is added", op, excusable=False)
        self._against_loops(mask, "the mask of what is added", op)
        self._switched(address | mask, "what is loaded", op)
        pointer = self._source(op.operands[0])
        if op.results[0].is_float:
            self.loaded.setdefault(pointer, op)
        by_place = any(map(placed, address.batch))
        own = OF_ROW if by_place else ""
        declared = frozenset({pointer + own}) if pointer in self.signature.batch else NONE
        if not by_place:  # a table that the batch's size looks something up in
            declared |= frozenset(n for n in address.batch - {pointer} if not placed(n))
        pattern = address.pattern | mask.pattern
        why = (address.batch | mask.batch) if pattern else NONE
        floats = op.results[0].is_float
        # What was loaded is the row's own, whichever way its address was reckoned.
        number = (declared | union(rest[1:]).number) if floats else NONE
        made = Mark(declared | why, address.varies | mask.varies, pattern, number, data=floats)
        return [replace(made, rows=address.rows) if floats else made]

    def _tt_store(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        address, value, *masks = inputs
        mask = union(masks)
        self._numbers(value, op)
        self._switched(address | value | mask, "what is stored, or whether,", op)
        if not op.operands[1].is_float and any(not placed(n) for n in value.batch):
            self._unclear(f"the integers that are stored depend on {names(value.batch)}", op)
        sizes = re.findall(r"(\d+)x", op.operands[1].type)
        cut = {a for a in value.pattern - mask.pattern if isinstance(a, int) and a < len(sizes) and sizes[a] != "1"}
        if cut and any(not placed(n) for n in value.batch):
            self._unclear(
                f"what is stored is cut by {names(value.batch)} along axis {min(cut)}, and the store is not", op
            )
        self._written(self._source(op.operands[0]), op)
        return []

    def _written(self, pointer: str, op: Op) -> None:
        """Two places that write one tensor, where the batch decides which: two ways to an output."""
        places = self.written.setdefault(pointer, {})
        places[op] = frozenset().union(places.get(op, NONE), *self._guards)
        batch = frozenset().union(*places.values())
        if len(places) > 1 and batch:
            self._unclear(
                f"{pointer} is written in {len(places)} places, and which of them runs follows {names(batch)}", op
            )

    def _tt_descriptor_load(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        tiles, *starts = inputs
        # The hardware compares each place with the tensor's end, as a mask would.
        where = tiles | union(replace(s, varies=s.varies | {axis}).compared() for axis, s in enumerate(starts))
        self._against_loops(where, "the address of what is added", op, excusable=False)
        self._switched(where, "what is loaded", op)
        rank = op.results[0].rank
        why = where.batch if where.pattern else NONE
        rows = frozenset(a for a, s in enumerate(starts) if s.batch and not any(isinstance(v, Op) for v in s.varies))
        return [Mark(why, where.varies | frozenset(range(rank)), where.pattern, tiles.number, data=True, rows=rows)]

    def _tt_descriptor_store(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        for value, mark in zip(op.operands, inputs, strict=True):
            if value.is_float:
                self._numbers(mark, op)
        self._written(self._source(op.operands[0]), op)
        return []

    def _tt_make_tensor_descriptor(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        """Along an axis whose end or stride follows the batch, so does what is loaded: zeros, from another place on."""
        rank = (len(inputs) - 1) // 2
        axes = frozenset(a for a in range(rank) if (inputs[1 + a] | inputs[1 + rank + a]).batch)
        pointer = self._source(op.operands[0])
        number = frozenset({pointer}) if pointer in self.signature.batch else NONE
        return [Mark(union(inputs[1:]).batch, pattern=axes, number=number)]

    def _tt_atomic_rmw(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        self.atomics.add(self._source(op.operands[0]))
        if re.search(r"\bexch\b|xchg", op.text):
            return self._tt_atomic_cas(op, inputs)
        if op.operands[1].is_float and re.search(r"\bf?add\b|fadd", op.text):
            self._refuted("floats are added by an atomic, in the order in which programs happen to arrive", op)
        # A counter hands out numbers in any order: as good as a program's id.
        return [Mark(frozenset({"an atomic counter"}), union(inputs).varies)] * len(op.results)

    def _tt_descriptor_reduce(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        self._refuted("floats are added by an atomic, in the order in which programs happen to arrive", op)
        return []

    def _tt_atomic_cas(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        self._unclear("a lock: in which order programs get it is not known", op)
        return [Mark(frozenset({"an atomic counter"}), union(inputs).varies)]

    # What adds.
    def _tt_dot(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        a, b, *others = inputs
        rank = op.operands[0].rank
        for side, mark, axis in (("left", a, rank - 1), ("right", b, rank - 2)):
            if axis in mark.pattern:
                self._along(mark, f"what the dot adds up (its {side} side)", op)
            self._neighbours(mark, axis, op)
        kept_a = renumbered(a, lambda axis: None if axis == rank - 1 else axis)
        kept_b = renumbered(b, lambda axis: None if axis == rank - 2 else axis)
        return [replace(union([kept_a, kept_b, *others[:1]]), data=True, constant=False)]

    def _tt_dot_scaled(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        return self._tt_dot(op, [inputs[0], inputs[1]])

    def _tt_reduce(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        axis = int(op.attribute("axis"))
        for value, mark in zip(op.operands, inputs, strict=True):
            if axis in mark.pattern and (value.is_float or mark.data):  # other integers are exact in any order
                self._along(mark, f"what is reduced along axis {axis}", op)
            if value.is_float or mark.data:
                self._neighbours(mark, axis, op)
        self._combine(op)
        whole = replace(union(inputs), constant=False)
        gone = renumbered(whole, lambda a: None if a == axis else a - (a > axis))
        return [gone] * len(op.results)

    def _tt_scan(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        axis = int(op.attribute("axis"))
        for value, mark in zip(op.operands, inputs, strict=True):
            if axis in mark.pattern and value.is_float:
                self._along(mark, f"what is scanned along axis {axis}", op)
            if value.is_float or mark.data:
                self._neighbours(mark, axis, op)
        self._combine(op)
        return [replace(union(inputs), varies=union(inputs).varies | {axis}, constant=False)] * len(op.results)

    def _combine(self, op: Op) -> None:
        """The little function of a reduction: its own values have nothing of the batch."""
        for region in op.regions:
            for block in region:
                for argument in block.arguments:
                    self.marks[argument] = Mark(data=True)
                for inner in block.ops:
                    self._op(inner)

    def _along(self, mark: Mark, what: str, op: Op) -> None:
        loop = self._loops[-1] if self._loops else None
        self._refuted(f"{what} follows {names(mark.batch)}", op, rule=loop or op)

    def _neighbours(self, mark: Mark, axis: int, op: Op) -> None:
        if axis in mark.rows:
            self._unclear("rows of one tile are taken together, so that a row may depend on those beside it", op)

    def _against_loops(self, mark: Mark, what: str, op: Op, excusable: bool = True) -> None:
        for loop in self._loops:
            if loop in mark.pattern and self._adding(loop):
                self._refuted(
                    f"{what} from one iteration to the next follows {names(mark.batch)}",
                    op,
                    loop if excusable else None,
                )

    def _adding(self, loop: Op) -> bool:
        """Whether what one iteration makes goes into the next: carried along, or through memory."""
        return accumulates(loop) or bool(self._through_memory(loop))

    def _through_memory(self, loop: Op) -> set[str]:
        """Pointers that the loop both reads floats from and writes to."""
        inside = [op for op in loop.walk() if op.name in ("tt.load", "tt.store")]
        read = {self._source(op.operands[0]) for op in inside if op.name == "tt.load" and op.results[0].is_float}
        return read & {self._source(op.operands[0]) for op in inside if op.name == "tt.store"}

    def _source(self, value: Value) -> str:
        """The argument that a pointer comes from."""
        for _ in range(1000):
            if value in self.carried_from:
                value = self.carried_from[value]
            elif value in self.makers and self.makers[value].operands:
                value = self.makers[value].operands[0]
            else:
                break
        return value.name.removeprefix("%")

    def _numbers(self, mark: Mark, op: Op) -> None:
        said = {n for n in mark.number if not n.startswith("program_id") and not n.endswith(OF_ROW)}
        if said:
            self._refuted(f"the numbers that are stored depend on {names(said)}", op)
        elif mark.number:
            self._unclear(f"the numbers that are stored depend on {names(mark.number)}, so on where a row stands", op)

    # Numbers and choices.
    def _arith_sitofp(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        return [replace(inputs[0], number=inputs[0].batch, constant=False)]

    def _arith_uitofp(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        """Of a truth value that varies: zeros where nothing is, as a mask makes them."""
        mask = op.operands[0].element == "i1" and inputs[0].varies and not inputs[0].gate
        return [replace(inputs[0], number=NONE if mask else inputs[0].batch, constant=False)]

    def _arith_select(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        chooser, a, b = inputs
        made = union([a, b]) if not chooser.batch else union(inputs).bent()
        if op.results[0].is_float:
            masks = (a.constant or b.constant) and bool(chooser.varies)  # zeros, or -inf, where nothing is
            self._switched(chooser, "a choice between numbers", op)
            number = a.number | b.number | chooser.number | (chooser.batch if chooser.batch and not masks else NONE)
            pattern = a.pattern | b.pattern | chooser.pattern
            return [
                Mark(
                    a.batch | b.batch | chooser.batch, chooser.varies | a.varies | b.varies, pattern, number, data=True
                )
            ]
        return [replace(made, varies=made.varies | chooser.varies, constant=False)]

    # Control.
    def _scf_for(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        bounds, inits = inputs[:3], inputs[3:]
        batch = frozenset().union(*(b.batch for b in bounds))
        counter, *carried = op.regions[0][0].arguments or []
        if batch and accumulates(op):
            kind = "may follow" if resets(op) else "follows"
            what = f"how often, or from where, the loop that adds {sums(op)} runs {kind} {names(batch)}"
            self._refuted(what, op, rule=op) if kind == "follows" else self._unclear(what, op)
        for value, init in zip(carried, op.operands[3:], strict=True):
            self.carried_from[value] = init
        if batch and (kept := self._through_memory(op)) and not accumulates(op):
            self._unclear(
                f"a loop that follows {names(batch)} reads and writes {', '.join(sorted(kept))}: it may add up there",
                op,
            )
        if accumulates(op) and any(b.data for b in bounds):
            self._unclear("how often a loop that adds runs depends on floats that were loaded", op)
        progress = bounds[0] | bounds[2]  # where it ends says nothing of where it is
        if self.signature.masked_tail and whole_steps(op.operands[0], op.operands[2], self.makers, self.marks):
            progress = replace(
                progress, batch=NONE, pattern=NONE
            )  # a key's own number: those before it are passed over
        # That it starts at a place of its own is judged by itself, so how that place was reckoned is not held against the counter.
        self.marks[counter] = replace(progress, varies=progress.varies | {op}, crooked=NONE, constant=False)
        return [
            self._after(m, v, batch, op) for m, v in zip(self._iterate(op, carried, inits), op.results, strict=True)
        ]

    def _after(self, mark: Mark, value: Value, batch: frozenset[str], op: Op) -> Mark:
        """What a loop leaves behind has been through it as often as the batch says."""
        if not batch or value.is_float:
            return mark
        if mark.data:
            self._refuted(f"how often the loop that adds up bits of floats runs follows {names(batch)}", op)
        return replace(mark, batch=mark.batch | batch).bent()

    def _iterate(self, op: Op, carried: Sequence[Value], inits: Sequence[Mark]) -> list[Mark]:
        self._loops.append(op)
        state = [replace(mark, varies=mark.varies | {op}, constant=False) for mark in inits]
        for _ in range(40):
            for value, mark in zip(carried, state, strict=True):
                self.marks[value] = mark
            yielded = self._body(op.regions[-1])
            after = [replace(old | new, constant=False) for old, new in zip(state, yielded, strict=False)]
            if after == state:
                break
            state = after
        self._loops.pop()
        return [without(mark, op) for mark in state]

    def _scf_while(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        before, after = op.regions
        for value, mark in zip(before[0].arguments, inputs, strict=False):
            self.marks[value] = replace(mark, varies=mark.varies | {op}, constant=False)
        floats = any(v.is_float for v in op.operands)
        for _ in range(40):
            state = [self._of(v) for v in before[0].arguments]
            condition, *passed = self._body(before)
            for value, mark in zip(after[0].arguments, passed, strict=False):
                self.marks[value] = mark
            self._loops.append(op)
            yielded = self._body(after)
            self._loops.pop()
            for value, old, new in zip(before[0].arguments, state, yielded, strict=False):
                self.marks[value] = old | new
            if state == [self._of(v) for v in before[0].arguments]:
                break
        if floats and condition.batch:
            self._refuted(f"how often the loop that adds runs follows {names(condition.batch)}", op, rule=op)
        elif floats and condition.data:
            self._unclear("how often a loop that adds runs depends on floats that were loaded", op)
        if condition.batch and (kept := self._through_memory(op)) and not floats:
            self._unclear(
                f"a loop that follows {names(condition.batch)} reads and writes {', '.join(sorted(kept))}: it may add up there",
                op,
            )
        left = [without(self._of(v), op) for v in after[0].arguments]
        return [self._after(m, v, condition.batch, op) for m, v in zip(left, op.results, strict=False)]

    def _scf_if(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        (chooser,) = inputs
        if any(
            o.name == "tt.store" or adds(o)
            for region in op.regions
            for b in region
            for each in b.ops
            for o in each.walk()
        ):
            self._switched(chooser, "what runs", op)
        self._guards.append(chooser.batch)
        arms = [self._body(region) for region in op.regions]
        self._guards.pop()
        working = [
            region
            for region in op.regions
            if any(adds(inner) for block in region for o in block.ops for inner in o.walk())
        ]
        floats = any(v.is_float for v in op.results)
        if chooser.batch and (floats or len(working) > 1):
            self._refuted(f"a branch chooses how it adds by {names(chooser.batch)}", op)
        elif chooser.data and (floats or working):
            self._unclear("a branch that adds depends on floats that were loaded, of other rows too perhaps", op)
        made = []
        for i in range(len(op.results)):
            mark = union(arm[i] for arm in arms)
            made.append(
                replace(mark | chooser, constant=False).bent() if chooser.batch else replace(mark, constant=False)
            )
        return made

    def _tt_call(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        self._unclear("a function that is not inlined is not followed", op)
        return [union(inputs).bent()] * len(op.results)

    def _tt_elementwise_inline_asm(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        self._unclear("inline assembly is not read", op)
        made = replace(union(inputs), batch=union(inputs).batch | {"inline assembly"}, constant=False).bent()
        return [made] * len(op.results)

    def _tt_extern_elementwise(self, op: Op, inputs: list[Mark]) -> list[Mark]:
        if op.attribute("libpath") or op.attribute("pure") == "false":
            self._unclear(f"{op.attribute('symbol')} of a library of its own is not followed", op)
        made = replace(self._with_numbers(op, inputs), constant=False)
        return [made if all(v.is_float for v in op.operands) else made.bent()]


def whole_steps(start: Value, step: Value, makers: Mapping[Value, Op], marks: Mapping[Value, Mark]) -> bool:
    """Whether a loop that starts later for some starts a whole number of steps later: something of the row's own, plus
    something times the step."""
    mark = marks.get(start, Mark())
    if not mark.batch:
        return True
    op = makers.get(start)
    if op is not None and op.name == "arith.addi":
        return all(whole_steps(v, step, makers, marks) for v in op.operands)
    if op is not None and op.name == "arith.muli":
        size = whole_number(makers.get(step))
        return any(v is step or (size and (whole_number(makers.get(v)) or 1) % size == 0) for v in op.operands)
    return False


def whole_number(op: Op | None) -> int | None:
    """An integer constant."""
    found = re.match(r"arith\.constant (\d+) : i\d+", op.text) if op is not None else None
    return int(found.group(1)) if found else None


def accumulates(loop: Op) -> bool:
    return any(v.is_float for v in loop.results)


def resets(loop: Op) -> bool:
    """Whether the loop starts its sums anew inside: many outputs one after the other, written as one loop."""
    made = {v: o for block in loop.regions[-1] for o in block.ops for v in o.results}
    last = loop.regions[-1][-1].ops[-1]
    return any(v.is_float and v in made and made[v].name in ("arith.select", "scf.if") for v in last.operands)


def adds(op: Op) -> bool:
    return op.name in ("tt.dot", "tt.dot_scaled", "tt.reduce", "tt.scan") or (op.name == "scf.for" and accumulates(op))


def sums(loop: Op) -> str:
    """The names in the source of what a loop carries."""
    names_ = [re.sub(r"(_\d+)?(#\d+)?$", "", v.name.removeprefix("%")) for v in loop.results if v.is_float]
    return ", ".join(dict.fromkeys(n for n in names_ if not n.isdigit())) or "up"
