"""Why calls were not asked again, in words. The codes are those of `replay.Untested`, and what an older run stored is said as it stands."""

from __future__ import annotations

from detcheck.replay import Untested

SENTENCES = {
    Untested.ROWS_UNKNOWN: "the prompt's own rows are not known",
    Untested.RANDOM: "it draws random numbers",
    Untested.NO_BATCH: "it holds no batch",
    Untested.MIXES_ROWS: "it mixes the rows",
    Untested.OTHER_ARGUMENTS: "its other arguments follow the batch",
    Untested.OTHER_ARGUMENTS_ALONE: "it has other arguments alone",
    Untested.INDICES: "its indices follow the batch",
    Untested.OWN_STATE: "it changes a state of its own",
    Untested.NOT_ROWS: "it also takes what is no rows",
    Untested.CACHE: "its cache cannot be cut: the prompt's own run is what it is compared with",
    Untested.SHAPE_ALONE: "it gives another shape alone",
    Untested.RAISES_AGAIN: "it raises {error} when it is asked again",
    Untested.RAISES_ALONE: "it raises {error} when it is asked with the prompt's rows alone",
}
