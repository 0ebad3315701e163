# Outcrop. `make` lists what there is.

SHELL := /bin/bash
STACKS ?= 10000

.DEFAULT_GOAL := help
.PHONY: help demo demo-down demo-cluster test lint bench fuzz soak clean clean-cache cluster cluster-down image chart

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s "$$(printf '\t')"

demo: ## Run real containers, and scan them (KEEP=1 keeps them and the service running)
	@tests/demo

demo-down: ## End a demo that was kept running
	@tests/demo stop

demo-cluster: ## Install Outcrop in a real cluster of two nodes without a registry, ask it, attack it
	@tests/demo-cluster

test: ## Every check of CI: format, lints, docs, all tests
	@tests/run

lint: ## Format, lints and docs only
	@tests/run lint

bench: ## Measure against find, syft and osv-scanner
	@benches/run

fuzz: ## Fuzz every target, SECONDS each
	@tests/fuzz $(or $(SECONDS),60)

soak: ## The reader against the kernel, STACKS random layer stacks
	STACKS=$(STACKS) cargo test --release -p overlayfs-reader --test it kernel:: -- --nocapture

cluster: ## Start a real Kubernetes cluster of two nodes with the demo's images, to play with
	@tests/containerd/images
	@tests/cluster/cluster start
	@tests/cluster/cluster load debian python-app node-app java-app layers go-app

cluster-down: ## End that cluster without a trace
	@tests/cluster/cluster stop

image: ## Build the images of both programs as OCI archives, without a daemon (PROFILE=dev: quickly)
	@images/build

chart: ## Check the Helm chart, also against the cluster where one was started
	@tests/chart/run

clean: ## Remove what was built here, and stop what runs
	-tests/demo stop
	-tests/cluster/cluster stop
	cargo clean
	. tests/places && rm -rf "$$OUTCROP_RUN"

clean-cache: clean ## Also remove the tools, images and cluster parts that all checkouts share
	. tests/places && rm -rf "$$OUTCROP_CACHE"
