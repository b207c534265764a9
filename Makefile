# Two commands do everything: make demo, make test.
GO      ?= go
LINT    := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
BINARY  := build/sluice
# Modules of their own, for their libraries; in_modules runs a command in each.
MODULES := deploy/image deploy/helm bench/picture terminator/record/gcm/asm
in_modules = @for m in $(MODULES); do (cd $$m && set -x && $(1)) || exit 1; done
WITHOUT_ROOT := [ "$$(id -u)" = 0 ] || \
	echo "These tests ran without root: in relay mode. Those of the splice and of network namespaces were skipped; root runs them too."

.DEFAULT_GOAL := help
.PHONY: help build image generate fresh lint kubernetes test race test-long test-soak servers protocol test-kernels upgrade model reliability fuzz demo cluster cluster-down e2e smoke quickstart workshop conformance scale bench bench-quick profile ci clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build/sluice, static
	CGO_ENABLED=0 $(GO) build -trimpath -pgo=bench/sluice.pgo -o $(BINARY) ./cmd/sluice
image: ## build/sluice.tar: the image as an OCI archive, for amd64 and arm64; IMAGE=name:tag
	@deploy/image/build.sh build/sluice.tar amd64 arm64

generate: ## regenerate BPF objects and bindings (clang from Debian), deepcopy, CRDs, manifests, AES-GCM kernels
	@deploy/packages.sh generate
	$(GO) generate ./bpf ./controller/v1alpha1 ./terminator/record/gcm
	cd deploy/helm && $(GO) run .
fresh: generate ## fail when a generated file or go.mod is not what the sources give
	$(GO) mod tidy -diff
	cd deploy/cluster/kubernetes && $(GO) mod tidy -diff
	$(call in_modules,$(GO) mod tidy -diff)
	git diff --exit-code -- bpf controller/v1alpha1 terminator/record/gcm deploy/crds deploy/chart deploy/kubernetes

lint: ## go vet and golangci-lint
	$(GO) vet ./...
	$(LINT) run ./...
	$(call in_modules,$(LINT) run ./...)

kubernetes: ## Kubernetes from Go modules, for tests; the first time takes ten minutes
	@deploy/cluster/kubernetes/build.sh

test: kubernetes ## every test; root runs the splice's too, other users run without it and say so
	@deploy/packages.sh test
	$(GO) test ./...
	$(call in_modules,$(GO) test ./...)
	@$(WITHOUT_ROOT)
race: kubernetes ## every test under the race detector
	@deploy/packages.sh test
	$(GO) test -race ./...
	@$(WITHOUT_ROOT)
test-long: kubernetes ## the reliability figures in full size (10,000 connections, 100,000 tries, 10,000 rotations)
	@deploy/packages.sh test
	SLUICE_LONG=1 $(GO) test -count=1 -timeout 60m ./agent/... ./terminator/... ./cmd/...
test-soak: ## an hour (SOAK=10m: less) of 1,000 idle and 100 busy connections while others come and go: no error, no leak
	SLUICE_SOAK=$(or $(SOAK),1h) $(GO) test -count=1 -timeout 0 -v -run TestASoakedGatewayHoldsNothingBack ./cmd/sluice
servers: ## in front of real servers from Debian's packages, as root, five minutes; FIGURES=DIR keeps what was counted
protocol: ## attacked by the TLS protocol, beside crypto/tls alone; five minutes, a quarter of an hour with TLSFUZZER=DIR; FIGURES=DIR, TESTS=REGEXP
servers protocol:
	@deploy/packages.sh $@
	cd deploy/$@ && SLUICE_FIGURES=$(abspath $(FIGURES)) TLSFUZZER=$(abspath $(TLSFUZZER)) $(GO) test -tags $@ -count=1 -timeout 60m -run '$(TESTS)'
test-kernels: ## the splice and the relay on Debian's 6.1 and 6.12 kernels, also on arm64, by qemu, half an hour; FIGURES as for servers
	@deploy/packages.sh kernels
	SLUICE_FIGURES=$(abspath $(FIGURES)) $(GO) test -tags kernels -count=1 -timeout 5h -v ./deploy/kernels
upgrade: ## from another version, BEFORE=COMMIT, and back, ten times each under connections, as root; FIGURES as for servers
	SLUICE_FIGURES=$(abspath $(FIGURES)) deploy/upgrade/run.sh $(BEFORE)
model: ## every interleaving of the splice's models, and of each of their mutants, by spin
	@deploy/packages.sh model && bpf/model/check.sh
reliability: ## RELIABILITY.md, of what tests counted that ran with SLUICE_FIGURES=deploy/reliability/figures
	mkdir -p build && $(GO) run ./deploy/reliability >build/RELIABILITY.md && mv build/RELIABILITY.md RELIABILITY.md
fuzz: ## each fuzz target for FUZZTIME (default 1h); FIGURES as for servers, TESTS=REGEXP
	SLUICE_FIGURES=$(abspath $(FIGURES)) $(GO) run ./deploy/reliability/fuzz -for $(or $(FUZZTIME),1h) -run '$(TESTS)'
demo: build ## the tour: curl and redis-cli through a gateway, into another network namespace
	@deploy/packages.sh demo && deploy/demo/run.sh
cluster: ## a Kubernetes cluster in namespaces of this machine, NODES=2; deploy/cluster/kubectl.sh talks to it
	@deploy/cluster/up.sh $(or $(NODES),2)
cluster-down: ## end the cluster and remove what it left
	@deploy/cluster/down.sh
e2e: ## the tests of deploy/e2e, in a cluster of their own; SLUICE_LONG=1 for outages of minutes
	@deploy/e2e/run.sh
smoke: ## the shortest of them, on one node
	@NODES=1 SLUICE_CLUSTER=smoke deploy/e2e/run.sh -test.run 'Spliced|Bpftool|Little|MemoryLimit'
quickstart: ## README's commands for a cluster, in one of its own: the first byte, and nothing left
	@deploy/quickstart/run.sh
workshop: ## TLS termination for TCP in twelve steps, in a cluster of its own: what deploy/workshop's page says
	@deploy/workshop/run.sh
conformance: ## the Gateway API's conformance suite, in a cluster of its own; writes deploy/conformance's report
	@deploy/conformance/run.sh
scale: build kubernetes ## what 1,000 Gateways cost: times, memory, bytes to nodes
	$(GO) run ./bench/scale
bench: ## CPU, memory and latency against other gateways into bench/results; SCENARIOS, PEERS (lists), ROUNDS (0: none, only the results); goes on where it stopped
	@SCENARIOS="$(SCENARIOS)" PEERS="$(PEERS)" ROUNDS="$(ROUNDS)" bench/run.sh
profile: ## bench/sluice.pgo anew, the profile that builds are guided by
	@deploy/packages.sh bench && bench/profile.sh
bench-quick: ## three minutes of it: Sluice over HAProxy, beside the same ratios of bench/results
	@deploy/packages.sh bench
	$(GO) run ./bench -rounds 3 -peers spliced,relay,haproxy -scenarios "upload,download,100 B x 16,handshake resumed,idle 1000" -against bench/results

ci: lint fresh test race ## what must hold before a change lands
clean: ## remove what was built
	rm -rf build
