"""The processes from which tests fork programs (tests/doubles/warm.py): what they fork is as a program that Python starts."""

import os
import signal
import subprocess
import sys

import pytest
import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere programs are started as ever")


@pytest.fixture(scope="module")
def popen():
    class Light(warm.Popen):
        libraries = ("decimal", "json")

    yield Light
    if one := warm.started.pop(Light.libraries, None):
        one.asked.close()
        one.process.wait()
        one.log.close()


def run(popen, code, *words, **how):
    return warm.run([sys.executable, "-c", code, *words], popen=popen, capture_output=True, text=True, **how)


def test_arguments_folder_environment_streams_and_the_exit_code_are_those_that_were_asked(popen, tmp_path):
    code = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['ASKED'], input()); print('err', file=sys.stderr); sys.exit(7)"
    done = run(popen, code, "a", "b", cwd=tmp_path, env=os.environ | {"ASKED": "so"}, input="in\n")
    assert (done.returncode, done.stderr) == (7, "err\n")
    assert done.stdout == f"['a', 'b'] {tmp_path} so in\n"


def test_it_was_forked_and_is_our_child(popen):
    code = "import os, sys; print('decimal' in sys.modules, os.getppid())"
    assert run(popen, code).stdout.split() == ["True", str(os.getpid())]
    assert run(popen, "raise SystemExit('words')").stderr == "words\n"
    failed = run(popen, "1 / 0")
    assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr


def test_other_libraries_are_loaded_in_another_environment(popen):
    run(popen, "")  # its own is that of the tests
    code = "import sys; print('decimal' in sys.modules)"
    assert run(popen, code, env=os.environ | {"OMP_NUM_THREADS": "3"}).stdout == "False\n"


def test_what_is_planted_in_new_processes_is_planted(popen, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os; os.planted = True")
    done = run(popen, "import os; print(os.planted)", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it(popen, number):
    words = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
    process = popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    assert process.stdout.readline() == "here\n" and os.getpgid(process.pid) == process.pid
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == -number


def test_a_descriptor_is_handed_on_by_its_number(popen):
    ours, theirs = os.pipe()
    process = popen([sys.executable, "-c", f"import os; os.write({theirs}, b'said')"], pass_fds=[theirs])
    os.close(theirs)
    assert (process.wait(20), os.read(ours, 9), os.read(ours, 9)) == (0, b"said", b"")
    os.close(ours)


def test_libraries_that_cannot_be_imported_are_said():
    class Broken(warm.Popen):
        libraries = ("no_such_library",)

    with pytest.raises(RuntimeError, match="No module named 'no_such_library'"):
        Broken([sys.executable, "-c", ""])
    warm.started.pop(Broken.libraries).process.wait()
