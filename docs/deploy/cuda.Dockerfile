# The service on an NVIDIA GPU. From the root of a checkout: docker build -f docs/deploy/cuda.Dockerfile -t sane-engine:cuda .
# CUDA and cuDNN come as wheels, the driver from the host (docker run --gpus all).
FROM python:3.11-slim-bookworm AS built
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
ENV VIRTUAL_ENV=/opt/sane PATH=/opt/sane/bin:$PATH
RUN python -m venv /opt/sane
COPY .ci/pycuda .ci/pycuda
RUN bash .ci/pycuda
COPY pyproject.toml README.md LICENSE MANIFEST.in constraints.txt ./
COPY engine engine
COPY export export
COPY kernels kernels
# the packages of the extras serve and index by name, because those extras bring onnxruntime, which has the import name of onnxruntime-gpu
RUN pip install --no-cache-dir -c constraints.txt '.[cuda]' \
    'fastapi>=0.115' 'uvicorn>=0.30' 'prometheus-client>=0.20' 'python-multipart>=0.0.18' 'threadpoolctl>=3.5' 'pylance>=14.0.2,<15' \
    'usearch>=2.26,<3' 'fsspec>=2024.6'

FROM python:3.11-slim-bookworm
COPY --from=built /opt/sane /opt/sane
# caches go to /tmp, the one folder that must be writable
ENV PATH=/opt/sane/bin:$PATH PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/live', timeout=3)"]
ENTRYPOINT ["python", "-m", "engine.serve", "--host", "0.0.0.0", "--provider", "cuda"]
