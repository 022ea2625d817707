# The service on a CPU. From the root of a checkout: docker build -f docs/deploy/cpu.Dockerfile -t sane-engine:cpu .
FROM python:3.11-slim-bookworm AS built
WORKDIR /source
COPY pyproject.toml README.md LICENSE MANIFEST.in constraints.txt ./
COPY engine engine
COPY export export
COPY kernels kernels
RUN python -m venv /opt/sane && /opt/sane/bin/pip install --no-cache-dir -c constraints.txt '.[serve,index]'

FROM python:3.11-slim-bookworm
COPY --from=built /opt/sane /opt/sane
# caches go to /tmp, the one folder that must be writable
ENV PATH=/opt/sane/bin:$PATH PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/tmp
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/live', timeout=3)"]
ENTRYPOINT ["python", "-m", "engine.serve", "--host", "0.0.0.0"]
