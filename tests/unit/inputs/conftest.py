"""Files of others, written for one test."""

import json

import pytest

from detcheck import runner


@pytest.fixture
def write(tmp_path):
    """(name, lines, whether they are one JSON document) -> the file. A line is text, or a JSON value."""

    def made(name, *lines):
        path = tmp_path / name
        path.write_text(
            "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8"
        )
        return path

    return made


@pytest.fixture
def judged(write):
    """Lines -> what is said of each request, by its name."""

    def call(*lines, name="file.jsonl", **options):
        return {f.case.input: f for f in runner.judge_file(write(name, *lines), **options).findings}

    return call
