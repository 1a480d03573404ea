# Stands in for NVIDIA's image: a real tritonserver in /opt/tritonserver, and recording stand-ins for everything that
# needs a GPU. It has a PyTorch and a TensorRT-LLM in name only, so that whoever replaces them is found out.
FROM docker.io/library/python:3.11-slim-bookworm
COPY requirements/ /tmp/requirements/
# The wheel's libraries are looked for relative to the binary, four directories up from a backend.
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    sed -n '/^nvidia-pytriton==/,/[^\\]$/p' /tmp/requirements/serve.txt >/tmp/triton.txt \
    && PIP_CONFIG_FILE=/run/secrets/pip PIP_CERT=/run/secrets/ca python3 -m pip install --no-cache-dir --no-deps \
        --require-hashes --target /tmp/wheel --requirement /tmp/triton.txt \
    && mv /tmp/wheel/nvidia_pytriton.libs / \
    && mv /tmp/wheel/pytriton/tritonserver /opt/tritonserver \
    && ln -s ../../python_backend_stubs/3.11/triton_python_backend_stub /opt/tritonserver/backends/python/ \
    && rm -r /tmp/wheel /tmp/triton.txt /tmp/requirements
COPY standin/ /standin/
RUN cp -r /standin/backends/tensorrtllm /opt/tritonserver/backends/ \
    && cp -r /standin/packages/tensorrt_llm /usr/lib/python3/dist-packages/ \
    && mkdir /usr/lib/python3/dist-packages/tensorrt_llm-0.19.0.dist-info \
        /usr/lib/python3/dist-packages/torch-2.7.0a0+79aa17489c.nv25.4.dist-info \
    && printf 'Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: 0.19.0\n' \
        >/usr/lib/python3/dist-packages/tensorrt_llm-0.19.0.dist-info/METADATA \
    && printf 'Metadata-Version: 2.1\nName: torch\nVersion: 2.7.0a0+79aa17489c.nv25.4\n' \
        >/usr/lib/python3/dist-packages/torch-2.7.0a0+79aa17489c.nv25.4.dist-info/METADATA \
    && mv /opt/tritonserver/bin/tritonserver /opt/tritonserver/bin/real-tritonserver \
    && cp /standin/bin/tritonserver /opt/tritonserver/bin/
ENV PATH=/opt/tritonserver/bin:/standin/bin:$PATH \
    STANDIN_GPUS='[["NVIDIA H100 80GB HBM3", "9.0", 81559, 81000], ["NVIDIA H100 80GB HBM3", "9.0", 81559, 81000]]'
