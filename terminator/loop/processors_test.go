// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"runtime"
	"testing"
)

func TestLoopsLeaveProcessorsToOthers(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	if got := Processors(); got != before {
		t.Fatalf("without a loop: %d processors of %d", got, before)
	}
	a, b := start(t), start(t)
	if got, all := Processors(), runtime.GOMAXPROCS(0); got != before || all != before+2 {
		t.Errorf("with two loops: %d processors of %d, want %d of %d", got, all, before, before+2)
	}
	a.Close()
	b.Close()
	if all := runtime.GOMAXPROCS(0); all != before {
		t.Errorf("without them again: %d processors, want %d", all, before)
	}
}
