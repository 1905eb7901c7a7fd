# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# For suites in the guest: devices for VFIO, and upstream's kselftests of it on those that
# no driver of this kernel wants (edu, a USB controller, an entropy source, igb).

# pci_device VENDOR DEVICE: the folder of the first such device.
pci_device()
{
	for dir in /sys/bus/pci/devices/*; do
		[ "$(cat "$dir/vendor")$(cat "$dir/device")" != "$1$2" ] || { echo "$dir"; return; }
	done
	return 1
}

# take VENDOR DEVICE: gives the first such device to vfio-pci and prints its address.
take()
{
	taken=$(pci_device "$1" "$2") || return 1
	[ ! -e "$taken/driver" ] || basename "$taken" >"$taken/driver/unbind"
	echo vfio-pci >"$taken/driver_override"
	basename "$taken" | tee /sys/bus/pci/drivers_probe
}

# vfio_take: gives them to vfio-pci; VFIO_DEVICES are their addresses then.
vfio_take()
{
	VFIO_DEVICES=
	for dir in /sys/bus/pci/devices/*; do
		case "$(cat "$dir/vendor"):$(cat "$dir/device")" in
		0x1234:0x11e8 | 0x1b36:0x000d | 0x1af4:0x1044 | 0x8086:0x10c9) ;;
		*) continue ;;
		esac
		a=$(basename "$dir")
		[ ! -e "$dir/driver" ] || echo "$a" >"$dir/driver/unbind"
		echo vfio-pci >"$dir/driver_override"
		echo "$a" >/sys/bus/pci/drivers_probe
		[ "$(basename "$(readlink -f "$dir/driver")")" = vfio-pci ] || return 1
		VFIO_DEVICES="$VFIO_DEVICES $a"
	done
	[ -n "$VFIO_DEVICES" ]
}

# vfio_tests [TEST...]: a program for each of the tests that all suites have, and of these,
# and each device. The container modes of the first are iommufd's own container.
vfio_tests()
{
	rc=0
	for a in $VFIO_DEVICES; do
		for test in vfio_dma_mapping_test vfio_iommufd_setup_test vfio_pci_device_test "$@"; do
			run "$test-$a" env "VFIO_SELFTESTS_BDF=$a" "/tests/$test" || rc=1
		done
	done
	return $rc
}

# vfio_driver_tests: what the devices do that a driver of the tests knows (igb): DMA.
vfio_driver_tests()
{
	rc=0
	for a in $VFIO_DEVICES; do
		run "vfio_pci_driver_test-$a" env "VFIO_SELFTESTS_BDF=$a" \
			/tests/vfio_pci_driver_test "$@" || rc=1
	done
	return $rc
}

# vfio_all: all of upstream's tests, and those of real DMA and of virtual functions on the card.
vfio_all()
{
	bad=0
	card=$(basename "$(pci_device 0x8086 0x10c9)")
	vfio_tests vfio_dma_mapping_mmio_test || bad=1
	# shellcheck disable=SC2086 # a list
	run vfio_pci_device_init_perf_test /tests/vfio_pci_device_init_perf_test $VFIO_DEVICES || bad=1
	for test in vfio_pci_driver_test vfio_pci_sriov_uapi_test; do
		run "$test" env "VFIO_SELFTESTS_BDF=$card" "/tests/$test" || bad=1
	done
	return $bad
}
