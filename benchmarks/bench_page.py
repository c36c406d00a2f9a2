"""docs/bench.md, drawn from docs/bench.json and the rows of `claims.py`. Pure: it measures nothing."""

import statistics

import claims

BUSY = 0.3  # cores
HEAD = """# Every figure, measured

<!-- Written by `make bench` from docs/bench.json: change benchmarks/claims.py, not this page. -->

Each figure that README and these pages claim has a row here, and a script under `benchmarks/` that can measure it. `make bench` measures them again on
your machine and writes this page; `make bench ROWS=judge,help` measures some, `make bench SLOW=1` also those that take long.

A row compares two things that took turns in one run, so that what else the machine did fell on both. The figure is the median of the rounds. The
spread is the middle half of the rounds, from the first to the third quartile; of fewer than five rounds it goes from the lowest to the highest.
A goal is met or missed by the median. A row is **partial** where its script told something and then ended badly: it meets no goal. "Counted" figures are no times: they come out the same each time.
"""


def render(known: dict) -> str:
    """The whole page. `known`: {"machines": [words], "rows": {name: {figures, beside, partial | failed, machine, date, detcheck, busy}}}."""
    lines = [HEAD, *counts(known["rows"])]
    used = sorted({row["machine"] for row in known["rows"].values()})
    names = {index: chr(ord("A") + n) for n, index in enumerate(used)}
    if names:
        lines += ["Machines:", ""]
        lines += [f"- **{name}**: {known['machines'][index]}" for index, name in names.items()]
        lines.append("")
    for title, words in claims.GROUPS.items():
        jobs = [job for job in claims.JOBS if job.group == title]
        lines += [f"## {title}", "", words, ""] if words else [f"## {title}", ""]
        lines += [
            "| row | measured, against what | figure | spread | rounds | goal | | on, of detcheck | claimed in |",
            "|---|---|---:|---|---:|---|---|---|---|",
        ]
        notes = []
        for job in jobs:
            for row in job.rows:
                told = known["rows"].get(row.name)
                lines.append(line(row, job, told, names))
                notes += beside(row, told)
        lines += ["", *notes, ""] if notes else [""]
        lines += busy([row.name for job in jobs for row in job.rows if not row.counted], known["rows"])
    lines += ["## Which script", "", "| script | rows | limit |", "|---|---|---:|"]
    for job in claims.JOBS:
        command = " ".join([f"benchmarks/{job.script}", *job.arguments])
        rows = ", ".join(f"`{row.name}`" for row in job.rows)
        lines.append(f"| `{command}`{' (slow)' if job.slow else ''} | {rows} | {job.limit_s} s |")
    return "\n".join(lines) + "\n"


def counts(rows: dict[str, dict]) -> list[str]:
    """How much of the page is measured, which goals are met, and where a page says something else."""
    every = [row for job in claims.JOBS for row in job.rows]
    told = [(row, rows[row.name]) for row in every if row.name in rows]
    whole = [(row, it["figures"]) for row, it in told if "failed" not in it and "partial" not in it]
    goals = [row.meets(figures) for row, figures in whole if row.goal is not None]
    bad = len(told) - len(whole)
    lines = [
        f"**{len(whole)} of {len(every)} rows are measured**; {bad} failed or are partial, {len(every) - len(told)} were not measured. "
        f"Of {sum(row.goal is not None for row in every)} goals {sum(goals)} are met and {len(goals) - sum(goals)} missed.",
        "",
    ]
    compared = [(row, claim, figures) for row, figures in whole for claim in row.claims if claim.says]
    other = [it for it in compared if not it[1].agrees(statistics.median(it[2]))]
    if compared:
        lines += [
            f"Of {len(compared)} figures that a page claims and that are measured here, {len(other)} "
            f"{'is' if len(other) == 1 else 'are'} not what the page says (further away than 10%, or than the claim allows). "
            "The pages name the machines that their figures are of.",
            "",
        ]
    for row, claim, figures in other:
        says = " to ".join(row.number(value) for value in claim.says)
        lines.append(
            f"- {link(claim.page)} says {says}, `{row.name}` measured here {row.figure(figures)}: “{clean(claim.words)}”."
        )
    return [*lines, ""] if other else lines


def line(row: claims.Row, job: claims.Job, told: dict | None, names: dict[int, str]) -> str:
    what = f"{row.what}, against {row.against}" if row.against else row.what
    pages = ", ".join(dict.fromkeys(link(claim.page) for claim in row.claims)) or ""
    goal = row.goal_words
    if told is None:
        return f"| `{row.name}` | {what} | not measured here | | | {goal} | | | {pages} |"
    of = ", ".join(filter(None, [told["date"].split()[0], told.get("detcheck", "")]))
    where = names[told["machine"]] if len(names) > 1 else ""
    if "failed" in told:
        return f"| `{row.name}` | {what} | **failed** | {clean(told['failed'])} | | {goal} | {where} | {of} | {pages} |"
    figures = told["figures"]
    missed = row.goal is not None and not row.meets(figures)
    met = f"**missed** by {row.missed_by(figures)}" if missed else "met" if row.goal is not None else ""
    if "partial" in told:
        met = ", ".join([met, "**partial**"]) if missed else "**partial**"
    mark = ", ".join(filter(None, [met, where]))
    count = "counted" if row.counted else str(len(figures))
    return f"| `{row.name}` | {what} | {row.figure(figures)} | {row.spread(figures)} | {count} | {goal} | {mark} | {of} | {pages} |"


def beside(row: claims.Row, told: dict | None) -> list[str]:
    """What stands below the table: what else was seen; why a goal is missed."""
    if told is None:
        return []
    said = clean(told.get("beside", ""))
    if "partial" in told:
        said = "; ".join(filter(None, [said, f"what was told until {clean(told['partial'])}"]))
    if "failed" not in told and row.goal is not None and not row.meets(told["figures"]) and row.why:
        said = f"{said}. {row.why}" if said else row.why
    return [f"- `{row.name}`: {said.rstrip('.')}."] if said else []


def busy(names: list[str], rows: dict[str, dict]) -> list[str]:
    """Whose times say little, since the machine did something else too."""
    found = [
        name for name in names if "failed" not in rows.get(name, {}) and (rows.get(name, {}).get("busy") or 0) > BUSY
    ]
    if not found:
        return []
    most = max(rows[name]["busy"] for name in found)
    listed = ", ".join(f"`{name}`" for name in found)
    return [
        f"While these ran, other programs kept up to {most:.1f} cores busy on average, so their times say little: {listed}.",
        "",
    ]


def clean(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def link(page: str) -> str:
    if page == "README.md":
        return "README"
    inside = page.removeprefix("docs/")
    return f"[{inside.removesuffix('.md')}]({inside})"
