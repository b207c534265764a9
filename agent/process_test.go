// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestAHardenedProcessLeavesNoKeyInACoreAndTakesAllDescriptors(t *testing.T) {
	descriptors, err := Harden()
	if err != nil {
		t.Fatal(err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable is %d (%v)", dumpable, err)
	}
	var core, files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core != (unix.Rlimit{}) {
		t.Errorf("core limit is %+v (%v)", core, err)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur != files.Max || files.Cur != descriptors {
		t.Errorf("descriptor limit is %+v (%v), reported %d", files, err, descriptors)
	}
}
