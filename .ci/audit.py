"""Asks pip-audit whether a package that is installed has a known vulnerability, and tells what was audited from what could not be.

pip-audit itself says "No known vulnerabilities found" and exits with 0 where its service knows none of the packages, as behind a mirror that
has no advisories. Here nothing audited is said to be just that:

    0  something was audited, and nothing is known against it but what .ci/audit.toml passes over, with a reason and a last day
    1  a known vulnerability
    3  nothing was audited, or a package that pyproject.toml names could not be; with --where-it-can, as `make test` asks, that is said and is no failure
    4  pip-audit failed
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

KNOWN = "certifi"  # it is installed everywhere, and asked for first: pip-audit asks the same for each package
SERVICE = f"https://pypi.org/pypi/{KNOWN}/json"  # of no version: whatever is installed, this is there
REACHED_S, AUDIT_S = 3, 300
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
IGNORED = Path(__file__).with_name("audit.toml")
HOW = "Where pypi.org can be reached, `make audit` asks again"
CLEAN, VULNERABLE, NOTHING, FAILED = 0, 1, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--where-it-can", action="store_true", help="exit with 0 where nothing could be audited")
    asked.add_argument("--json", type=Path, help="judge what pip-audit wrote there, and ask nobody")
    given = asked.parse_args(arguments)
    try:
        passed_over = ignored(tomllib.loads(IGNORED.read_text("utf-8")), datetime.date.today())
        found = json.loads(given.json.read_text("utf-8")) if given.json else audit()
        lines, code = judge(found, passed_over, direct(tomllib.loads(PROJECT.read_text("utf-8"))))
    except Unreachable as error:
        lines, code = [f"nothing was audited: {error}. {HOW}"], NOTHING
    except (OSError, ValueError, KeyError, TypeError, AttributeError, subprocess.SubprocessError) as error:
        lines, code = [f"no audit: {type(error).__name__}: {error}"], FAILED
    print("\n".join(f"audit: {line}" for line in lines), file=sys.stdout if code == CLEAN else sys.stderr)
    return CLEAN if code == NOTHING and given.where_it_can else code


class Unreachable(Exception):
    """There is no service that knows of vulnerabilities."""


def audit() -> Mapping[str, object]:
    """What pip-audit says of this Python's packages. Raises Unreachable."""
    try:
        with urllib.request.urlopen(SERVICE, timeout=REACHED_S) as answer:
            known = json.load(answer)
    except urllib.error.HTTPError as error:
        raise Unreachable(f"{SERVICE} answers, and does not know {KNOWN} (status {error.code})") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"{SERVICE} does not answer ({error})") from None
    if not isinstance(known, dict) or "vulnerabilities" not in known:
        raise Unreachable(f"{SERVICE} answers without advisories")
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--local",
        "--skip-editable",
        "--progress-spinner",
        "off",
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_S)
    if done.returncode not in (0, 1):  # 1: there are vulnerabilities, or it failed and wrote no JSON
        raise ValueError(f"pip-audit ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise ValueError(f"pip-audit wrote no JSON: {done.stderr.strip()[-300:]}") from None


def ignored(document: Mapping[str, object], today: datetime.date) -> dict[str, str]:
    """Id -> why it is passed over. Raises ValueError for an entry without a reason or a last day; after that day it counts again."""
    found = {}
    for entry in document.get("ignored", ()):
        if not (
            isinstance(entry.get("id"), str)
            and len(str(entry.get("reason", "")).split()) >= 3
            and isinstance(entry.get("until"), datetime.date)
        ):
            raise ValueError(f"{IGNORED.name}: each entry has an id, a reason in words and a date `until`; got {entry}")
        if today <= entry["until"]:
            found[entry["id"]] = entry["reason"]
    return found


def direct(project: Mapping[str, object]) -> set[str]:
    """Packages that pyproject.toml names, extras too."""
    own = project["project"]
    named = [
        *own.get("dependencies", ()),
        *(one for extra in own.get("optional-dependencies", {}).values() for one in extra),
    ]
    return {plain(re.match(r"[\w.-]+", one)[0]) for one in named} - {plain(own["name"])}


def plain(name: str) -> str:
    """As packages are compared: https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


def judge(
    document: Mapping[str, object], passed_over: Mapping[str, str], needed: Set[str] = frozenset()
) -> tuple[list[str], int]:
    """(what there is to say, exit code) of pip-audit's JSON. `needed`: packages without which it is not clean. Pure."""
    packages = document["dependencies"]
    audited = [one for one in packages if "vulns" in one]
    skipped = [one for one in packages if "vulns" not in one]
    lines, code, used = [], CLEAN, set()
    for one in audited:
        for known in one["vulns"]:
            ids = {known["id"], *known.get("aliases", ())}
            if allowed := sorted(ids & passed_over.keys()):
                used.update(allowed)
                lines.append(f"{one['name']} {one['version']}: {known['id']} is passed over: {passed_over[allowed[0]]}")
                continue
            code = VULNERABLE
            fixes = known.get("fix_versions") or ()
            cure = f"fixed in {', '.join(fixes)}" if fixes else "no version is said to mend it"
            lines.append(
                f"{one['name']} {one['version']}: {known['id']}: {cure}. {' '.join(str(known.get('description', '')).split())[:200]}"
            )
    if audited:
        lines += [
            f"{name} is in {IGNORED.name} and was found nowhere: take it out"
            for name in sorted(passed_over.keys() - used)
        ]
    names = ", ".join(one["name"] for one in skipped[:8]) + (", ..." if len(skipped) > 8 else "")
    left_out = f"; {len(skipped)} could not be ({names})" if skipped else ""
    if not audited:
        return [f"nothing was audited: none of {len(packages)} packages is known to the service. {HOW}"], NOTHING
    if code == CLEAN and (lacking := sorted(needed & {plain(one["name"]) for one in skipped})):
        lines.append(
            f"the service does not know this version of {', '.join(lacking)}, which pyproject.toml names. {HOW}"
        )
        code = NOTHING
    return [*lines, f"{len(audited)} packages were audited{left_out}"], code


if __name__ == "__main__":
    sys.exit(main())
