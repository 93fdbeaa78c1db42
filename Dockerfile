# The image of worker and gateway: a virtualenv built in one stage, and copied without its tools into
# the other. The digest of the base gets no fixes until it is renewed: docs/operate.md explains how.
ARG PYTHON_IMAGE=python:3.13-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements-build.txt requirements-runtime.txt ./
RUN python -m venv --without-pip /opt/darkq \
    && pip install --no-cache-dir --no-deps --requirement requirements-build.txt \
    && pip --python /opt/darkq/bin/python install --no-cache-dir --no-deps --requirement requirements-runtime.txt
COPY . .
RUN python -m hatchling build --target wheel --directory /dist \
    && pip --python /opt/darkq/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl

FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="darkq" \
      org.opencontainers.image.description="Background text generation that you can reconnect to." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# /files is the mount point of a volume for the files of batches. Otherwise only /tmp is written.
RUN python -m pip uninstall --yes --root-user-action=ignore pip \
    && useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin darkq \
    && install --directory --owner=darkq --group=darkq /files
COPY --from=build /opt/darkq /opt/darkq
ENV PATH=/opt/darkq/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8080
# The first process determines which of the two this is. It is darkq itself, and receives signals.
HEALTHCHECK --interval=30s --timeout=20s --start-period=30s \
    CMD ["sh", "-c", "if tr '\\0' '\\n' </proc/1/cmdline | grep -qx gateway; then exec darkq gateway --check; else exec darkq worker --check; fi"]
ENTRYPOINT ["darkq"]
CMD ["worker"]
