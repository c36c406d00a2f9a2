"""What reports say of a compiled kernel."""

from __future__ import annotations

from detcheck.blocks import Block, Facts, LineNote, LineNotes, Text, Totals
from detcheck.finding import Finding
from detcheck.probes.certify.facts import Certificate
from detcheck.probes.certify.judge import in_words
from detcheck.probes.certify.reasons import what
from detcheck.records import SourceLine
from detcheck.text import visible
from detcheck.verdict import Verdict

ADVICE = {
    Verdict.CERTIFIED: "not proven: that the matrix unit treats every row of a tile alike, that the driver runs the binary as it is, "
    "and what the code that launches it does",
    Verdict.REFUTED: "Let loop bounds, branches, masks and addresses along what is added follow the row's own length and constants alone.",
    Verdict.UNDECIDED: "This is no certificate. Where the reason is the kernel's form, write it so that it can be read; else test it on a GPU.",
}


def describe(finding: Finding) -> tuple[Block, ...]:
    certificate, advice = finding.detail, ADVICE.get(finding.verdict, "")
    read: tuple[Block, ...] = ()
    if isinstance(certificate, Certificate):
        noted = tuple(LineNote(SourceLine(f.file, f.line), visible(what(f)), f.refutes) for f in certificate.found)
        read = (Totals(summary(certificate)), Facts(tuple(lines(certificate))), LineNotes(noted))
    return (*read, Text((advice,))) if advice else read


def summary(certificate: Certificate) -> str:
    """The compiled kernel in a line."""
    binaries = ", ".join(digest[:12] for each in certificate.binaries.values() for digest in each)
    instructions = ", ".join(f"{n} {name}" for name, n in certificate.instructions.items()) or "no matrix instructions"
    spills = f"{certificate.spills} bytes spilled" if certificate.spills else "nothing spilled"
    return (
        f"{certificate.registers} registers, {spills}, {certificate.shared_bytes} bytes of shared memory, {instructions}; "
        f"binary {binaries}"
    )


def lines(certificate: Certificate) -> list[str]:
    """What was read of a compiled kernel, a fact a line."""
    flags = ", ".join(f"{name} {value}" for name, value in sorted(certificate.flags.items()))
    found, binaries = certificate.found, sum(map(len, certificate.binaries.values()))
    against = [f"against it: {visible(in_words(f))}" for f in found] if len(found) > 1 else []
    return [*against, f"forms of a launch: {certificate.forms}, different binaries: {binaries}; {visible(flags)}"]
