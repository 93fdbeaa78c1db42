# The image of worker and gateway: a virtualenv made in one stage, carried without its tools into the other.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements-build.txt requirements-runtime.txt ./
RUN python -m venv --without-pip /opt/darkq \
    && pip install --no-cache-dir --no-deps --requirement requirements-build.txt \
    && pip --python /opt/darkq/bin/python install --no-cache-dir --no-deps --requirement requirements-runtime.txt
COPY . .
RUN python -m hatchling build --target wheel --directory /dist \
    && pip --python /opt/darkq/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin darkq \
    && install --directory --owner=10001 /files
COPY --from=build /opt/darkq /opt/darkq
ENV PATH=/opt/darkq/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001
HEALTHCHECK --interval=30s --timeout=10s --start-period=15s CMD ["darkq", "worker", "--check"]
ENTRYPOINT ["darkq"]
CMD ["worker"]
