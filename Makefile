# One command each; the work is done in scripts/, which set up what they need.

TARGET  ?=
PREFIX  ?= /opt/cni/bin
DESTDIR ?=
PEER    ?= .build/reference
TIME    ?= 60
TEST    ?=
SEED    ?=
CONTAINERD ?=
export PREFIX DESTDIR TARGET

.DEFAULT_GOAL := build
.PHONY: build install uninstall demo test e2e runtimes aarch64 compatibility load faults kernels lint bench fuzz prerequisites clean help

build: ## build the plugins, static, into bin/ (TARGET=aarch64-unknown-linux-musl: into bin/TARGET/)
	@scripts/build $(TARGET)

install: ## install the plugins into $(DESTDIR)$(PREFIX), /opt/cni/bin by default
	@scripts/install install

uninstall: ## remove our plugins, and nobody else's, from $(DESTDIR)$(PREFIX)
	@scripts/install uninstall

demo: ## see two pods get addresses and talk to each other and to a host outside
	@scripts/prerequisites tools cnitool
	@scripts/build
	@scripts/demo

test: ## run everything: units, end to end (ours, the reference), runtimes, kernels, aarch64, install, size, MSRV
	@scripts/test

e2e: ## run the end-to-end tests alone (TEST=name: those whose names contain it, with their logs; PEER=dir: another suite)
	@scripts/prerequisites
	@scripts/build
	@scripts/e2e $(if $(filter command line,$(origin PEER)),--peer "$(PEER)") $(TEST)

runtimes: ## run the suite under containerd, Debian's build, unpacked (TEST=name; CONTAINERD=v2.4.2: that release, built)
	@CONTAINERD="$(CONTAINERD)" scripts/runtimes $(TEST)

aarch64: ## cross-build the suite and run it by an emulator of programs (Debian's qemu-user)
	@scripts/aarch64

compatibility: ## run all that leaves rows for docs/compatibility.md, and write it
	@scripts/compatibility

load: ## 200 attachments by 32 workers at a time, mixed with the reference's (TIME=120: seconds, SEED=number)
	@scripts/prerequisites
	@scripts/build
	@LOAD_ATTACHMENTS=200 LOAD_WORKERS=32 LOAD_SEED="$(SEED)" \
		LOAD_SECONDS=$(if $(filter command line,$(origin TIME)),$(TIME),120) scripts/e2e load::

faults: ## kill each plugin at every system call, and let every one fail (half an hour; TEST=name: some)
	@scripts/prerequisites tools
	@scripts/build
	@scripts/faults $(TEST)

kernels: ## run end-to-end tests in other kernels: user-mode Linux, Debian's 6.1 and 6.12 in qemu (OXBRIDGE_WHOLE=1: all tests)
	@scripts/prerequisites
	@scripts/build
	@scripts/kernels

lint: ## check the format and the lints
	@scripts/lint

bench: ## measure ours and a peer's plugins side by side (PEER=dir, the reference by default)
	@scripts/bench "$(PEER)"

fuzz: ## fuzz what comes from outside: configs, results, files, answers of the kernel (TIME=60: seconds each)
	@scripts/fuzz $(TIME)

prerequisites: ## get what demo, test and bench need besides Rust, or say how to
	@scripts/prerequisites

clean: ## remove everything that was built or fetched
	@rm -rf bin .build target fuzz/target

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
