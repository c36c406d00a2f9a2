"""What a type checker says of a user's file: keywords, values and tables are known to it."""

import re
from pathlib import Path

import detcheck

USER = """
from pathlib import Path
import detcheck

run = detcheck.completions(model=Path("m"), samples=3, kernels="both", batch_sizes=[1, 8], engine_arg={"a": 1}, conditions="alone")
reveal_type(run)
reveal_type(run.findings)
detcheck.kernels(op="rmsnorm", kernels=detcheck.Spec("kernels", None).kernels)
detcheck.judge("file")
detcheck.compare(run, "b")
detcheck.bisect(run)
detcheck.assert_deterministic(sorted, [2, 1], trials=3)
detcheck.completions(sample=3)
detcheck.completions(kernels="our")
detcheck.completions(samples="3")
run.finding
"""
# Of detcheck alone what a user sees is read, and none of the large libraries below: a second instead of minutes.
CONFIG = """
[mypy]
[mypy-torch.*,transformers.*,vllm.*,triton.*,numpy.*,pyarrow.*,scipy.*,matplotlib.*,typer.*,rich.*,jinja2.*,httpx.*,detcheck.engines.*,detcheck.harness.*,detcheck.storage.*,detcheck.judge.*,detcheck.runner,detcheck.report,detcheck.commands,detcheck.switch,detcheck.op,detcheck.probes.*]
follow_imports = skip
follow_imports_for_stubs = True
[mypy-detcheck.*]
ignore_errors = True
"""


def test_a_checker_knows_the_keywords(tmp_path, monkeypatch):
    from mypy import api

    monkeypatch.setenv("MYPYPATH", str(Path(detcheck.__file__).parents[1]))
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    options = [
        "--config-file",
        str(tmp_path / "mypy.ini"),
        "--cache-dir",
        str(tmp_path / "cache"),
        "--no-error-summary",
    ]
    said, trouble, code = api.run([*options, str(tmp_path / "user.py")])
    assert (trouble, code) == ("", 1)
    found = {
        int(line): text for line, text in re.findall(r"user\.py:(\d+): \w+: (.*)", said) if "defined in" not in text
    }
    assert found[6] == 'Revealed type is "detcheck.api.run.Run"'
    assert found[7] == 'Revealed type is "pandas.core.frame.DataFrame"'
    assert 'Unexpected keyword argument "sample" for "completions"; did you mean "samples"?' in found[13]
    assert (
        """incompatible type "Literal['our']"; expected "Literal['stock', 'batch-invariant', 'both', 'engine']"""
        in found[14]
    )
    assert 'incompatible type "str"; expected "int"' in found[15]
    assert '"Run" has no attribute "finding"; maybe "findings"?' in found[16]
    assert set(found) == {6, 7, 13, 14, 15, 16}, said
