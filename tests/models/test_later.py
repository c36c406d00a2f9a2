"""sklearn is not imported before it is called."""

import subprocess
import sys

CODE = """
import sys
from detcheck.models.later import USER, sklearn_later
sklearn_later()
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM
from transformers.generation import candidate_generator
print("sklearn" in sys.modules, candidate_generator.is_sklearn_available())
print([round(float(x), 3) for x in candidate_generator.roc_curve([0, 1], [0.1, 0.9])[0]], "sklearn" in sys.modules)
"""


def test_transformers_gets_sklearn_when_it_calls_it_and_not_before():
    made = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert made.stdout.splitlines() == ["False True", "[0.0, 0.0, 1.0] True"]
