// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Harden prepares the process for holding private keys and many connections:
// no core dump, no ptrace and no /proc/PID/mem by others of the same user, and
// as many descriptors as the hard limit allows. Go's collector is told of the memory
// limit of the cgroup. It concerns the whole process, so it is for main to call. It returns the descriptor limit.
func Harden() (descriptors uint64, err error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return 0, fmt.Errorf("setrlimit RLIMIT_CORE: %w", err)
	}
	limitMemory()
	// The Go runtime raises the soft limit by itself, but restores it for
	// children and says nothing; here it is sure and the figure is known.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("getrlimit RLIMIT_NOFILE: %w", err)
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return 0, fmt.Errorf("setrlimit RLIMIT_NOFILE %d: %w", limit.Max, err)
		}
	}
	return limit.Cur, nil
}
