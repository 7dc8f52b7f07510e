# Commands of a working day. `make` lists them; CONTRIBUTING.md has the set-up.
.DEFAULT_GOAL := help
.PHONY: help install check test chart e2e bench dashboards lock

help:                ## List the commands
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install:             ## Install the package and all tools into the active environment
	pip install -c constraints.txt -e '.[e2e]'

check:               ## Style, types and imports
	ruff check
	ruff format --check
	mypy
	lint-imports

test:                ## All tests but the kind suite
	pytest

chart:               ## Tests of the chart and the dashboards
	pytest tests/chart tests/dashboards

e2e:                 ## The kind suite; needs Docker, kind, kubectl and helm
	pytest tests/e2e

bench:               ## The benchmarks, an hour on an idle machine
	python benchmarks/run.py
	python benchmarks/scaling.py

dashboards:          ## Generate the dashboards, the rules and the chart's table of values
	python dashboards/src/generate.py
	python tests/chart/values_reference.py

lock:                ## Write the hashed requirements of the images; needs uv
	deploy/image/lock.sh
