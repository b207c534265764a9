// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestOnlyTimeUp(t *testing.T) {
	for name, c := range map[string]struct {
		out  string
		want bool
	}{
		"the coordinator's race": {`fuzz: elapsed: 5s, execs: 17942 (3810/sec), new interesting: 1 (total: 434)
--- FAIL: FuzzConversation (5.13s)
    context deadline exceeded
FAIL
exit status 1
FAIL	example.com/handover	5.142s
`, true},
		"an input whose failure is a deadline": {`--- FAIL: FuzzConversation (1.02s)
    --- FAIL: FuzzConversation (0.00s)
        fuzz_test.go:30: context deadline exceeded
    
    Failing input written to testdata/fuzz/FuzzConversation/5b1e
FAIL
`, false},
		"a hang": {`--- FAIL: FuzzConversation (5.13s)
    fuzzing process hung or terminated unexpectedly: exit status 2
    Failing input written to testdata/fuzz/FuzzConversation/5b1e
    context deadline exceeded
FAIL
`, false},
		"a known input that fails": {`--- FAIL: FuzzConversation (0.01s)
    --- FAIL: FuzzConversation/seed#0 (0.00s)
        fuzz_test.go:30: lost a byte
FAIL
`, false},
	} {
		if got := onlyTimeUp(c.out); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
