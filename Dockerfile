# The images. Targets:
#   runtime              (the default) serves on NVIDIA GPUs; without an engine it builds one into the cache first
#   build                compiles engines, as a container on a GPU host
#   runtime-with-engine  runtime with the engine of one PROFILE baked in, for hosts without a network
#   runtime-nodes        runtime with an SSH server, for engines whose ranks are on several nodes of a Kubernetes cluster
#   runtime-cpu          the portable engine and the embedded model on a slim Python image
#   runtime-cuda         the portable engine on NVIDIA GPUs, on a slim Python image; builds an engine as runtime does
# Build secrets, all optional: ca (certificates of a proxy that re-signs TLS), pip (a pip.conf), hf_token.
# docs/container.md says how to build and run each.

# scripts/lock adds the digests that these tags have today (NAME:TAG@sha256:...).
# The one place that names NVIDIA's image; build_engine/versions.py refuses releases that cannot work.
ARG BASE_IMAGE=nvcr.io/nvidia/tritonserver:25.05-trtllm-python-py3
ARG CPU_BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# ---- the portable engine -------------------------------------------------------------------------------------------
FROM ${CPU_BASE_IMAGE} AS cpu-dependencies
WORKDIR /opt/nimble-coder
COPY requirements/ requirements/
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# PyTorch's headers, tests and test programs are half as large as its libraries, and nothing here compiles.
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    python3 -m venv venv \
    && requirements/pip install --only-binary :all: --require-hashes --extra-index-url "${TORCH_INDEX}" \
        --requirement requirements/serve.txt \
    && site=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && echo /opt/nimble-coder/package >"$site/nimble-coder.pth" \
    && rm -r "$site/torch/include" "$site/torch/test" \
    && find "$site/torch/bin" -type f ! -name torch_shm_manager -delete \
    && venv/bin/python requirements/sbom.py nimble-coder-cpu >sbom.spdx.json \
    && python3 -m compileall -q "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PATH=/opt/nimble-coder/package/bin:/opt/nimble-coder/venv/bin:$PATH

# The engine's step: compiled apart, because a compiler is wanted nowhere else and other code changes more often.
FROM cpu-dependencies AS cpu-step
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -r /var/lib/apt/lists/*
COPY nimble_coder/engine/*.h nimble_coder/engine/step.cpp nimble_coder/engine/compiled.py step/
RUN PYTHONPATH=step python3 -c 'from compiled import compile_step; compile_step()'

FROM cpu-dependencies AS cpu-package
WORKDIR /source
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    /opt/nimble-coder/requirements/pip install --only-binary :all: --require-hashes \
        --requirement /opt/nimble-coder/requirements/wheel.txt
COPY . .
COPY --from=cpu-step /opt/nimble-coder/step/*.so nimble_coder/engine/
RUN /opt/nimble-coder/requirements/pip install --no-index --no-deps --no-build-isolation \
        --target /opt/nimble-coder/package .

# Built where it will be served, because Triton's configuration names absolute paths. The cache keeps the artefact, which
# depends on the model, the build stage and the repository's templates, over builds that change other code.
FROM cpu-package AS cpu-artifact
RUN --mount=type=cache,target=/var/cache/nimble-coder \
    nimble-coder create-model-store --profile demo --model-store /opt/nimble-coder/artifact \
        --cache /var/cache/nimble-coder

FROM cpu-dependencies AS runtime-cpu
# Any user may write to the cache who is in group 0, as a user without an entry in /etc/passwd is by default.
RUN mkdir -p /opt/nim/.cache && chown 1000:0 /opt/nim/.cache && chmod 2775 /opt/nim/.cache
ENV HOME=/tmp \
    USER=nimble \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NIM_CACHE_PATH=/opt/nim/.cache \
    NIMBLE_BAKED_ARTIFACT=/opt/nimble-coder/artifact \
    NIMBLE_HOST=0.0.0.0
USER 1000:0
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s CMD ["nimble-coder", "health"]
ENTRYPOINT ["nimble-coder"]
CMD ["serve"]
# What a change of code touches comes last.
COPY --from=cpu-artifact /opt/nimble-coder/artifact artifact
COPY --from=cpu-package /opt/nimble-coder/package package
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Nimble Coder (CPU)" \
      org.opencontainers.image.description="Code completion for Qwen2.5-Coder: portable lookahead engine, embedded model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# ---- the portable engine on NVIDIA GPUs ----------------------------------------------------------------------------
FROM ${CPU_BASE_IMAGE} AS cuda-dependencies
WORKDIR /opt/nimble-coder
# When a kernel is first used, Triton's language has a C compiler make what starts it. The base has Python's headers.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -r /var/lib/apt/lists/* \
    && headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include", "posix_prefix"))') \
    && gcc -fsyntax-only -x c -I "$headers" -include Python.h /dev/null
ARG CUDA_LOCK=cuda.txt
COPY requirements/pip requirements/sbom.py requirements/${CUDA_LOCK} requirements/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    python3 -m venv venv \
    && requirements/pip install --only-binary :all: --require-hashes --requirement "requirements/${CUDA_LOCK}" \
    && site=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && echo /opt/nimble-coder/package >"$site/nimble-coder.pth" \
    && rm -rf "$site/torch/include" "$site/torch/test" \
    && find "$site/torch/bin" -type f ! -name torch_shm_manager -delete \
    && find "$site" -name '*.a' -delete \
    && venv/bin/python requirements/sbom.py nimble-coder-cuda >sbom.spdx.json \
    && python3 -m compileall -q "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# Where GKE mounts the driver; the NVIDIA container toolkit mounts it where Debian's libraries are. Triton's language looks
# here for what the loader's cache does not list, since nobody renews that where the root file system is read-only.
ENV PATH=/opt/nimble-coder/package/bin:/opt/nimble-coder/venv/bin:$PATH:/usr/local/nvidia/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/lib/x86_64-linux-gnu

FROM cuda-dependencies AS runtime-cuda
RUN mkdir -p /opt/nim/.cache && chown 1000:0 /opt/nim/.cache && chmod 2775 /opt/nim/.cache
# The toolkit gives a container what NVIDIA_* ask for. The compiled kernels are kept with the engines.
ENV HOME=/tmp \
    USER=nimble \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/opt/nim/.cache/kernels \
    NIM_CACHE_PATH=/opt/nim/.cache \
    NIMBLE_ENGINE_DEVICE=cuda \
    NIMBLE_HOST=0.0.0.0
USER 1000:0
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# The first start builds an engine.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60m CMD ["nimble-coder", "health"]
ENTRYPOINT ["nimble-coder"]
CMD ["serve"]
COPY --from=cpu-package /opt/nimble-coder/package package
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Nimble Coder (CUDA)" \
      org.opencontainers.image.description="Code completion for Qwen2.5-Coder: portable lookahead engine for NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# ---- NVIDIA GPUs ---------------------------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS gpu-dependencies
# Nobody runs this stage.
# hadolint ignore=DL3002
USER 0
WORKDIR /opt/nimble-coder
COPY requirements/ requirements/
# Only what the base lacks: PyTorch, TensorRT-LLM and what they were tested with stay NVIDIA's. What has to be older than
# in the CPU image for their sake is in gpu.txt.
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    python3 -m venv --without-pip --system-site-packages venv \
    && venv/bin/python requirements/lacking.py list requirements/gpu.txt requirements/serve.txt \
        >requirements/lacking.txt \
    && requirements/pip install --only-binary :all: --require-hashes --no-deps --requirement requirements/lacking.txt \
    && venv/bin/python requirements/sbom.py nimble-coder >sbom.spdx.json \
    && site=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && echo /opt/nimble-coder/package >"$site/nimble-coder.pth"
ENV PATH=/opt/nimble-coder/package/bin:/opt/nimble-coder/venv/bin:$PATH

FROM gpu-dependencies AS gpu-package
WORKDIR /source
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    /opt/nimble-coder/requirements/pip install --only-binary :all: --require-hashes \
        --requirement /opt/nimble-coder/requirements/wheel.txt
COPY . .
ARG BASE_IMAGE
RUN /opt/nimble-coder/requirements/pip install --no-index --no-deps --no-build-isolation \
        --target /opt/nimble-coder/package . \
    && python3 /opt/nimble-coder/requirements/lacking.py check "nimble-coder[telemetry]" build_engine nimble_coder \
    && tagged="${BASE_IMAGE%@*}" \
    && nimble-coder version --check-container "${tagged##*:}"

FROM gpu-dependencies AS build
RUN mkdir -p /opt/nim/.cache && chown 1000:0 /opt/nim/.cache && chmod 2775 /opt/nim/.cache
ENV HOME=/tmp \
    USER=nimble \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NIM_CACHE_PATH=/opt/nim/.cache \
    NIMBLE_HOST=0.0.0.0
USER 1000:0
ENTRYPOINT ["nimble-coder"]
CMD ["build-engine"]
COPY --from=gpu-package /opt/nimble-coder/package package
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Nimble Coder" \
      org.opencontainers.image.description="Code completion for Qwen2.5-Coder: TensorRT-LLM engines with lookahead decoding" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Weights and engine made while the image is built: for builders that expose a GPU.
FROM build AS engine
# Nobody runs this stage.
# hadolint ignore=DL3002
USER 0
ARG PROFILE
ARG HF_ENDPOINT=https://huggingface.co
RUN --mount=type=secret,id=ca --mount=type=secret,id=hf_token \
    --mount=type=cache,id=engines,target=/var/cache/nimble-coder \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca REQUESTS_CA_BUNDLE=/run/secrets/ca; fi \
    && HF_TOKEN_PATH=/run/secrets/hf_token nimble-coder create-model-store --profile "${PROFILE:?name a profile}" \
        --model-store /opt/nimble-coder/artifact --cache /var/cache/nimble-coder \
    && venv/bin/python requirements/sbom.py nimble-coder-with-engine artifact/manifest.json >sbom.spdx.json

FROM build AS runtime
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# The first start may build an engine.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60m CMD ["nimble-coder", "health"]
CMD ["serve"]

FROM runtime AS runtime-with-engine
COPY --from=engine /opt/nimble-coder/artifact artifact
COPY --from=engine /opt/nimble-coder/sbom.spdx.json .
ENV NIMBLE_BAKED_ARTIFACT=/opt/nimble-coder/artifact

# mpirun starts the ranks on other nodes over SSH, which knows users by their names.
FROM runtime AS runtime-nodes
USER 0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends openssh-server && rm -r /var/lib/apt/lists/* \
    && rm -f /etc/ssh/ssh_host_* \
    && (getent passwd 1000 || useradd --uid 1000 --gid 0 --home-dir /tmp --no-create-home nimble) \
    && venv/bin/python requirements/sbom.py nimble-coder-nodes >sbom.spdx.json
USER 1000:0

FROM runtime
