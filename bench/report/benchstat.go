// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
)

// benchmarks are the windows of a peer in the Go benchmark format, a line each,
// so that benchstat compares two peers, or a peer with itself in another run
// (https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md).
// The lines of configuration are the same for all peers of a run: benchstat does
// not compare what differs in them.
func (r *Report) benchmarks(peer string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "date: %s\nkernel: %s\ncpu: %s\ncpus: %d\n\n", r.date(), r.Host.Kernel, r.Host.CPU, r.Host.CPUs)
	for _, s := range r.Scenarios {
		for _, w := range r.Windows {
			if w.Scenario != s.Name || w.Peer != peer || !w.Measured() {
				continue
			}
			fmt.Fprintf(&out, "%s 1 %.6g %s", s.benchmark(), w.PerUnit, strings.ReplaceAll(s.Unit, " ", "-"))
			if cpu := strings.HasPrefix(s.Unit, "s/") || strings.HasPrefix(s.Unit, "µs/"); cpu {
				fmt.Fprintf(&out, " %.6g backend-%s", w.BackendPerUnit, s.Unit)
			}
			if w.Kernel != nil {
				fmt.Fprintf(&out, " %.6g kernel-kB", *w.Kernel)
			}
			if w.Latency != nil {
				fmt.Fprintf(&out, " %.6g p50-µs %.6g p99-µs", w.Latency.P50, w.Latency.P99)
			}
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// benchmark is the scenario's name in the form of Go's: "4 KB x 16" with 16
// connections is Benchmark4KB/conns=16.
func (s Scenario) benchmark() string {
	name := strings.TrimSuffix(s.Name, fmt.Sprintf(" x %d", s.Connections))
	var b strings.Builder
	for word := range strings.FieldsFuncSeq(name, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return fmt.Sprintf("Benchmark%s/conns=%d", &b, s.Connections)
}
