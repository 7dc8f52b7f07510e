# Image of Fleetlimit: a Python interpreter, the dependencies, and Fleetlimit with its hot path
# compiled. The image contains no compiler and no pip.
#
#   docker build -t ghcr.io/fleetlimit/fleetlimit:0.1.0 .
#
# The container writes nothing at run time, so its root file system can be read-only. It needs no shell.
# An image of your own app on top of it: deploy/examples/orders/Dockerfile.
#
# The base images are pinned by digest, and every file of a distribution by hash (deploy/image/lock.sh).
# To update a digest: docker buildx imagetools inspect python:3.11-slim
ARG BASE_IMAGE=python:3.11-slim@sha256:db3ff2e1800a8581e2c48a27c3995339d47bdf046da21c7627accd3d51053a93
# Image of the build stages: the same Python version, with its headers and a C compiler.
ARG BUILD_IMAGE=python:3.11@sha256:c7220863385ee39fb6d822da81f4469d0cd33ff893d92ce94105e5c3f4b95fe2

FROM ${BUILD_IMAGE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# pip has a virtual environment of its own, which stays in this stage.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/fleetlimit
WORKDIR /build
COPY deploy/image/requirements.txt ./
# Wheels only: the build dependencies of a source distribution would have no hashes.
RUN /opt/pip/bin/pip --python /opt/fleetlimit/bin/python install --no-compile \
      --require-hashes --only-binary :all: -r requirements.txt \
  # With unchecked hashes Python does not compare the bytecode with its source at import.
  && /opt/fleetlimit/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/fleetlimit/lib

FROM dependencies AS package
COPY deploy/image/build-requirements.txt ./
# The dependencies are installed here, too, because the compiler reads their types.
RUN for file in requirements.txt build-requirements.txt; do \
      /opt/pip/bin/pip install --no-compile --require-hashes --only-binary :all: -r $file || exit 1; \
    done
COPY pyproject.toml LICENSE README.md ./
COPY deploy/wheel deploy/wheel
COPY app app
# A separate prefix, copied over the environment below: a source change rebuilds only a small layer.
RUN HATCH_BUILD_HOOK_ENABLE_CUSTOM=true \
    /opt/pip/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
  && /opt/pip/bin/pip --python /opt/fleetlimit/bin/python install --no-compile --no-deps --prefix /package /wheels/*.whl \
  && /opt/fleetlimit/bin/python -m compileall -q --invalidation-mode unchecked-hash /package/lib

FROM ${BASE_IMAGE}
# Official images lack the bytecode of the standard library. A read-only container cannot add it.
RUN python3 -c "import compileall, re, sysconfig; \
      compileall.compile_dir(sysconfig.get_path('stdlib'), rx=re.compile('site-packages'), quiet=2)"
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="fleetlimit" \
      org.opencontainers.image.description="Rate limiting for FastAPI that holds across every replica" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=dependencies /opt/fleetlimit /opt/fleetlimit
COPY --from=package /package /opt/fleetlimit
ENV PATH=/opt/fleetlimit/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# `fleetlimit serve package.module:app` imports from its working directory.
WORKDIR /app
USER 65532:65532
# 8000: API. 9090: admin port with metrics and health.
EXPOSE 8000 9090
ENTRYPOINT ["fleetlimit"]
CMD ["serve"]
