// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// The README lists the controller's metrics as they are.
func TestTheReadmeListsTheMetrics(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	m := newMetrics(r)
	m.objects.WithLabelValues("Gateway")
	m.writes.WithLabelValues("written")
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		got = append(got, fmt.Sprintf("| `%s` | %s | %s |", f.GetName(), strings.Join(labels, ", "), f.GetHelp()))
	}
	slices.Sort(got)
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := regexp.MustCompile("(?m)^\\| `sluice_controller_.*$").FindAllString(string(readme), -1)
	if diff := cmp.Diff(got, listed); diff != "" {
		t.Errorf("gathered (-), in the README (+):\n%s", diff)
	}
}
