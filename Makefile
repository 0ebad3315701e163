# Outcrop. `make` lists what there is.

CACHE := $(or $(OUTCROP_CACHE),$(CURDIR)/.cache)
STACKS ?= 10000

.DEFAULT_GOAL := help
.PHONY: help test lint soak clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | column -t -s "$$(printf '\t')"

test: ## Format, lints, docs, all tests
	@tests/run

lint: ## Format, lints and docs only
	@tests/run lint

soak: ## The reader against the kernel, STACKS random layer stacks
	STACKS=$(STACKS) cargo test --release -p overlayfs-reader --test kernel -- --nocapture

clean: ## Remove what was built and cached
	cargo clean
	rm -rf $(CACHE)
