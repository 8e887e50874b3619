# One image for every service: `docker run headrace gateway`, `... workers`, `... --help`.
# The tag names the line of Python that the tests run on. Pin it by digest where you deploy, for a base that never moves:
# FROM python:3.11-slim@sha256:...

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# `analysis` adds what the statistics of student records need, some hundred megabytes, to what every service needs.
ARG REQUIREMENTS=runtime
WORKDIR /src

# The build backend stays in an environment of its own, so none of it reaches the image.
COPY requirements/build.txt requirements/runtime.txt requirements/analysis.txt requirements/
RUN python -m venv /build \
    && /build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && python -m venv --without-pip /app \
    && /build/bin/pip --python /app/bin/python install --require-hashes --only-binary :all: -r "requirements/$REQUIREMENTS.txt"

COPY . .
RUN /build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist . \
    && /build/bin/pip --python /app/bin/python install --no-deps --no-index /dist/*.whl \
    && /app/bin/python -m compileall -q /app/lib


FROM python:3.11-slim
LABEL org.opencontainers.image.title="headrace" \
      org.opencontainers.image.description="JSON documents over NATS JetStream into MongoDB, Postgres and Redis" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 headrace \
    && useradd --uid 10001 --gid headrace --no-create-home --home-dir /tmp --shell /usr/sbin/nologin headrace
COPY --from=build /app /app

# Every process tells how it is on this loopback port, whichever service it runs; HEALTHCHECK and compose.yaml ask there.
ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HEADRACE_METRICS_PORT=9464
WORKDIR /tmp
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"HEADRACE_METRICS_PORT\"]}/healthz', timeout=4)"]
ENTRYPOINT ["headrace"]
CMD ["--help"]
