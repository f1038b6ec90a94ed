# The verbs of this project. Each sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := $(VENV)-tools/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types imports proto proto-check bench faults soak promtool clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Code generator of its own: an old one on purpose, see docs/decisions/0002-wire.md.
$(TOOLS):
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip install --quiet 'grpcio-tools==1.76.0' 'mypy-protobuf==3.7.0' 'setuptools<81'
	touch $@

PROTOC = cd protos && PATH="$(CURDIR)/$(VENV)-tools/bin:$$PATH" ../$(VENV)-tools/bin/python -m grpc_tools.protoc -I.

proto: $(TOOLS)  ## regenerate the gRPC stubs
	$(PROTOC) --python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. trajmon_protos/v1/*.proto
