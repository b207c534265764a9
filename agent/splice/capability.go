// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// MissingCapabilities returns which of the capabilities that loading and
// attaching needs the process lacks. CAP_SYS_ADMIN stands for all of them, as
// it did for BPF before Linux 5.8.
func MissingCapabilities() ([]string, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil, fmt.Errorf("capget: %w", err)
	}
	holds := func(bit uint) bool { return data[bit/32].Effective&(1<<(bit%32)) != 0 }
	if holds(unix.CAP_SYS_ADMIN) {
		return nil, nil
	}
	var missing []string
	for _, c := range []struct {
		name string
		bit  uint
	}{{"CAP_BPF", unix.CAP_BPF}, {"CAP_PERFMON", unix.CAP_PERFMON}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}} {
		if !holds(c.bit) {
			missing = append(missing, c.name)
		}
	}
	return missing, nil
}
