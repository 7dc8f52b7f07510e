# The service: a Python interpreter, the locked dependencies and Fleetlimit, of which what sees every
# request is compiled. No compiler, no pip.
#
#   docker build -t fleetlimit:0.1.0 .
#
# Nothing is written at run time, so the root file system can be read-only; no shell is needed.
# Your own app on top of it: deploy/examples/orders/Dockerfile.
ARG PYTHON=3.11
ARG BASE_IMAGE=python:${PYTHON}-slim
# The same Python with its headers and a C compiler, which the image itself does without.
ARG BUILD_IMAGE=python:${PYTHON}

FROM ${BUILD_IMAGE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# pip stays here: it installs into the environment from outside.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/fleetlimit
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# What a package is built with goes by the second in newer versions of pip.
ENV PIP_CONSTRAINT=/build/constraints.txt PIP_BUILD_CONSTRAINT=/build/constraints.txt
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
  && /opt/pip/bin/pip --python /opt/fleetlimit/bin/python install --no-compile \
      -r requirements.txt \
  # Not trusting time stamps, the bytecode is never looked at twice and never written again.
  && /opt/fleetlimit/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/fleetlimit/lib

FROM dependencies AS package
COPY LICENSE README.md ./
COPY deploy/wheel deploy/wheel
COPY app app
# Into a folder of its own, laid over the environment below: a change of the source is a small layer.
RUN HATCH_BUILD_HOOK_ENABLE_CUSTOM=true \
    /opt/pip/bin/pip --python /opt/fleetlimit/bin/python install --no-compile --no-deps --prefix /package . \
  && /opt/fleetlimit/bin/python -m compileall -q --invalidation-mode unchecked-hash /package/lib

FROM ${BASE_IMAGE}
# Official images come without the bytecode of the standard library, and nothing is written later.
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
# `fleetlimit serve package.module:app` finds modules in its working directory.
WORKDIR /app
USER 65532:65532
# The API, and the admin port with metrics and health.
EXPOSE 8000 9090
ENTRYPOINT ["fleetlimit"]
CMD ["serve"]
