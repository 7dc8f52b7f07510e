# Commands of a working day. `make` lists them; CONTRIBUTING.md has the set-up.
.DEFAULT_GOAL := help
.PHONY: help install check test chart lint-dashboards e2e bench dashboards chart-docs docs lock

help:                ## List the commands
	@awk -F ' *:.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

lint-dashboards:     ## Lint the dashboards; needs dashboard-linter
	for board in charts/fleetlimit/files/dashboards/*.json; do \
	  dashboard-linter lint --strict --config dashboards/.lint "$$board" || exit 1; done

e2e:                 ## The kind suite; needs Docker, kind, kubectl and helm
	pytest tests/e2e

bench:               ## The benchmarks, an hour on an idle machine
	python benchmarks/run.py
	python benchmarks/scaling.py

dashboards:          ## Generate the dashboards and the rules
	python dashboards/src/generate.py

chart-docs:          ## Write the chart's README with its table of values; needs helm-docs
	helm-docs --chart-search-root charts --sort-values-order file

docs:                ## Build the documentation site in .site/html; needs the extra docs
	python docs/src/build_site.py
	zensical build --strict

lock:                ## Write the hashed requirements of the images; needs uv
	deploy/image/lock.sh
