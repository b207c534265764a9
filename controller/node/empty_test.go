// SPDX-License-Identifier: Apache-2.0

package node

import (
	"maps"
	"slices"
	"testing"
	"time"
)

func TestABackendIsEmptyOnceItHasBeenForLong(t *testing.T) {
	var e empty
	start := time.Unix(1000, 0)
	for i, step := range []struct {
		at   time.Duration
		now  []string
		want []string
	}{
		{0, []string{"old"}, []string{"old"}}, // it was so before
		{time.Second, []string{"old", "new"}, []string{"old"}},
		{toldAfter, []string{"old", "new"}, []string{"old"}},
		{time.Second + toldAfter, []string{"old", "new"}, []string{"new", "old"}},
		{7 * time.Second, nil, nil},
		{8 * time.Second, []string{"old"}, nil},
		{8*time.Second + toldAfter, []string{"old"}, []string{"old"}},
	} {
		now := map[string]string{}
		for _, b := range step.now {
			now[b] = "none is ready"
		}
		if got := slices.Sorted(maps.Keys(e.lasting(now, start.Add(step.at)))); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}
