// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics returns what a pedantic registry gathers, one "name{labels} value" a
// metric.
func metrics(t *testing.T, c Collector) (all []string) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			all = append(all, fmt.Sprintf("%s{%s} %v", f.GetName(), strings.Join(labels, ","),
				m.GetCounter().GetValue()+m.GetGauge().GetValue()))
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	s := open(t, Options{})
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	p := ends(t, s, l)
	warm(t, p)
	want := []string{
		"sluice_splice_bytes_total{direction=down} 80",
		"sluice_splice_bytes_total{direction=up} 16",
		"sluice_splice_outcomes_total{outcome=endpoint_unknown} 0",
		"sluice_splice_outcomes_total{outcome=foreign_owner} 0",
		"sluice_splice_outcomes_total{outcome=map_full} 0",
		"sluice_splice_outcomes_total{outcome=mptcp} 0",
		"sluice_splice_outcomes_total{outcome=not_supported} 0",
		"sluice_splice_outcomes_total{outcome=peer_elsewhere} 0",
		"sluice_splice_outcomes_total{outcome=peer_not_joined} 0",
		"sluice_splice_outcomes_total{outcome=policy_off} 0",
		"sluice_splice_outcomes_total{outcome=reader_blocks} 0",
		"sluice_splice_outcomes_total{outcome=reader_fionread} 0",
		"sluice_splice_outcomes_total{outcome=reader_peeks} 0",
		"sluice_splice_outcomes_total{outcome=reader_splices} 0",
		"sluice_splice_outcomes_total{outcome=reader_ulp} 0",
		"sluice_splice_outcomes_total{outcome=reader_unproven} 0",
		"sluice_splice_outcomes_total{outcome=reader_waits} 0",
		"sluice_splice_outcomes_total{outcome=spliced} 1",
		"sluice_splice_outcomes_total{outcome=tcp_busy} 0",
		"sluice_splice_outcomes_total{outcome=zerocopy} 0",
		"sluice_splice_resets_total{} 0",
		"sluice_splice_state{reason=} 1",
	}
	if diff := cmp.Diff(want, metrics(t, Collector{Splicer: s})); diff != "" {
		t.Error(diff)
	}
}

func TestMetricsWithoutSplice(t *testing.T) {
	err := unavailable(ReasonCapability, "load programs: %w", errors.New("operation not permitted"))
	want := []string{"sluice_splice_state{reason=capability} 0"}
	if diff := cmp.Diff(want, metrics(t, Collector{Err: err})); diff != "" {
		t.Error(diff)
	}
}

func TestCgroupRootIsTheWholeHierarchy(t *testing.T) {
	for _, tc := range []struct{ name, mounts, want string }{
		{"version 2 alone", "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"},
		{"beside version 1", `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`, "/sys/fs/cgroup/unified"},
		{"a container that has the host's as well", `24 1 0:22 /kubepods/pod7 /sys/fs/cgroup ro - cgroup2 cgroup rw
25 1 0:22 / /host/sys\040fs/cgroup ro - cgroup2 cgroup rw
`, "/host/sys fs/cgroup"},
		{"a container with its own and the node's", `24 1 0:22 / /sys/fs/cgroup ro - cgroup2 cgroup rw
25 1 0:22 /../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup rw
26 1 0:22 /.. /pod ro - cgroup2 cgroup rw
`, "/host/sys/fs/cgroup"},
		{"a container", "24 1 0:22 /kubepods/pod7 /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "/sys/fs/cgroup"},
		{"none", "24 1 0:22 / /proc rw - proc proc rw\n", ""},
	} {
		got, err := parseCgroupRoot(strings.NewReader(tc.mounts))
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}
