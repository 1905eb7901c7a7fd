# SPDX-License-Identifier: GPL-2.0
#
# The front door. `make` lists what there is; the work is in tools/testing/rig.

RIG := tools/testing/rig
IMPL ?= rust

# What the user gave goes through the environment, so that nothing here needs
# to know every option.
export TOOLCHAIN LLVM ACCEL V JOBS XDG_CACHE_HOME CLIENT CONFIG FORMAT
ifneq ($(KDIR),)
export KDIR := $(abspath $(KDIR))
endif

.DEFAULT_GOAL := help
.PHONY: help run test build apply unapply series branch refresh bench coverage lint shell doc package kselftest-package

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | \
		awk -F'|' '{ printf "%-24s %s\n", $$1, $$2 }'
	@echo
	@echo 'Options: IMPL=rust|c|upstream|debug|c-debug|module|plain|vfio, SUITE="...", V=1 (show everything),'
	@echo '         ACCEL=kvm, KDIR=own-7.3-tree, TOOLCHAIN=host (LLVM=-19), JOBS=N, XDG_CACHE_HOME=folder'

run: ## boot the kernel and show /dev/iommu at work; CLIENT=qemu: with QEMU and its guest
	@IMPL=$(IMPL) $(RIG)/run

test: ## everything that CI runs; SUITE=list lists the suites
	@$(if $(filter command line environment,$(origin IMPL)),IMPL=$(IMPL)) $(RIG)/test $(SUITE)

build: ## leave build/IMPL/arch/x86/boot/bzImage
	@$(RIG)/build $(IMPL)

apply: ## put the overlay on the tree KDIR=...
	@$(RIG)/overlay apply $(KDIR)

unapply: ## take the overlay off the tree KDIR=..., byte for byte
	@$(RIG)/overlay unapply $(KDIR)

series: ## write build/series/*.patch, which `git am` takes on a clean 7.3 tree
	@$(RIG)/overlay series

branch: ## patches/ as commits on Linux 7.3 in build/patches, to edit, reorder and reword
	@$(RIG)/overlay branch

refresh: ## write the commits of build/patches back to patches/
	@$(RIG)/overlay refresh

bench: ## what each operation costs, upstream beside ours
	@$(RIG)/bench

coverage: ## which lines of our Rust the suites execute (an hour); SUITE="..." picks
	@$(RIG)/coverage/measure $(SUITE)

lint: ## rustfmt, clippy, checkpatch, shellcheck
	@$(RIG)/test lint

shell: ## a root shell in the booted kernel
	@$(RIG)/shell $(IMPL)

package: ## a kernel for a real machine, to be installed beside its own: IMPL=rust|c, CONFIG=/boot/config-...
	@$(RIG)/package $(IMPL)

kselftest-package: ## the kselftests as a tarball with a report command, for a real machine
	@$(RIG)/kselftest-package

doc: ## rustdoc of the abstractions and crates, in build/doc
	@$(RIG)/doc
