"""What is different about the members that differ: facts of their environments that all of them have and none of the others. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PARTS = ("packages.", "flags.", "variables.")  # of an environment, whose names say enough without
NOT_SET = "not set"
Facts = Mapping[str, str]


def facts(environment: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, str]:
    """Name -> value of all that is recorded of where a member ran, and of the weights that it had."""
    return dict(flat(environment)) | {f"SHA-256 of the {name}": digest[:12] for name, digest in digests.items()}


def flat(environment: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in environment.items():
        where = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{where}.")
        else:
            yield short(where), re.sub(r" at https?://\S+", "", str(value))


def short(name: str) -> str:
    return next((name.removeprefix(part) for part in PARTS if name.startswith(part)), name)


def apart(odd: Sequence[Facts], others: Sequence[Facts]) -> list[str]:
    """Facts whose values on the one side are none of those on the other, in words."""
    names = sorted({name for one in (*odd, *others) for name in one})
    found = []
    for name in names:
        there, elsewhere = values(odd, name), values(others, name)
        if there and elsewhere and not set(there) & set(elsewhere):
            found.append(f"{name}: {' or '.join(there)}, elsewhere {' or '.join(elsewhere)}")
    return found


def values(members: Sequence[Facts], name: str) -> list[str]:
    return list(dict.fromkeys(one.get(name, NOT_SET) for one in members))


def unlike(members: Sequence[Facts]) -> list[str]:
    """Names of facts that are not the same for all."""
    return [name for name in sorted({name for one in members for name in one}) if len(values(members, name)) > 1]
