"""A question is read as it was written: of every probe, and of every one that a fleet is asked."""

import json

import pytest

from detcheck import lookup
from detcheck.fleet.options import EXAMPLES, fleet_spec
from detcheck.probe import Probe
from detcheck.spec import Spec
from detcheck.storage.head import read_spec

ASKED = [Spec(name, Probe(name).options()) for name in lookup.names("probes")]
ASKED += [fleet_spec(name, {"address": "auto", "workers": 2}, {}) for name in EXAMPLES]


@pytest.mark.parametrize("spec", ASKED, ids=lambda spec: spec.probe)
def test_a_spec_is_read_as_it_was_written(spec):
    stored = json.loads(json.dumps(spec.flat()))
    again = read_spec({"probe": spec.probe, "spec": stored, "detcheck_version": "0"}, type(spec.options))
    assert again == spec
    assert [type(v) for v in vars(again.options).values()] == [type(v) for v in vars(spec.options).values()]
