# Stands in for NVIDIA's image: its Python with what it is known to have installed, a real tritonserver in
# /opt/tritonserver, and recording stand-ins for everything that needs a GPU. TensorRT-LLM is there in name only.
FROM docker.io/library/python:3.11-slim-bookworm AS base
COPY python/ /usr/local/
RUN ldconfig && ln -s python3.12 /usr/local/bin/python3 && python3 -m ensurepip --default-pip
# 25.05: build.py of triton-inference-server pins grpcio-tools 1.64.0, by which protobuf and grpcio are what they are here;
# transformers is that of TensorRT-LLM 0.19's requirements. There is no tritonclient.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    PIP_CONFIG_FILE=/run/secrets/pip PIP_CERT=/run/secrets/ca python3 -m pip install --no-cache-dir \
        --extra-index-url "$TORCH_INDEX" --only-binary :all: \
        protobuf==5.29.4 grpcio==1.71.0 transformers==4.51.0 numpy==1.26.4 torch==2.7.0

FROM base
COPY requirements/ /tmp/requirements/
# The wheel's libraries are looked for relative to the binary, four directories up from a backend.
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    sed -n '/^nvidia-pytriton==/,/[^\\]$/p' /tmp/requirements/serve.txt >/tmp/triton.txt \
    && PIP_CONFIG_FILE=/run/secrets/pip PIP_CERT=/run/secrets/ca python3 -m pip install --no-cache-dir --no-deps \
        --require-hashes --target /tmp/wheel --requirement /tmp/triton.txt \
    && mv /tmp/wheel/nvidia_pytriton.libs / \
    && mv /tmp/wheel/pytriton/tritonserver /opt/tritonserver \
    && ln -s ../../python_backend_stubs/3.12/triton_python_backend_stub /opt/tritonserver/backends/python/ \
    && rm -r /tmp/wheel /tmp/triton.txt /tmp/requirements
COPY standin/ /standin/
RUN site=/usr/local/lib/python3.12/site-packages \
    && cp -r /standin/backends/tensorrtllm /opt/tritonserver/backends/ \
    && cp -r /standin/packages/tensorrt_llm $site/ \
    && mkdir $site/tensorrt_llm-0.19.0.dist-info \
    && printf 'Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: 0.19.0\n' \
        >$site/tensorrt_llm-0.19.0.dist-info/METADATA \
    && mv /opt/tritonserver/bin/tritonserver /opt/tritonserver/bin/real-tritonserver \
    && cp /standin/bin/tritonserver /opt/tritonserver/bin/
ENV PATH=/opt/tritonserver/bin:/standin/bin:$PATH \
    STANDIN_GPUS='[["NVIDIA H100 80GB HBM3", "9.0", 81559, 81000], ["NVIDIA H100 80GB HBM3", "9.0", 81559, 81000]]'
