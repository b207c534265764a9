// SPDX-License-Identifier: Apache-2.0

package translate_test

import (
	"encoding/json"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// allCases runs f with the objects of every golden case.
func allCases(t *testing.T, f func(t *testing.T, c goldenCase, r translate.Resources)) {
	for _, path := range casePaths(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			c := readCase(t, path)
			r, _ := c.resources(t, false)
			f(t, c, r)
		})
	}
}

func TestTranslateNeverChangesItsInput(t *testing.T) {
	allCases(t, func(t *testing.T, c goldenCase, r translate.Resources) {
		before := encode(t, r)
		previous, statuses := c.translate(t, r)
		o := translate.Options{ControllerName: controllerName, DefaultClass: "sluice", Now: now, Previous: previous, Statuses: statuses}
		served, told := encode(t, previous), encode(t, statuses)
		translate.Translate(r, o).Statuses(translate.Feedback{})
		if diff := cmp.Diff(before, encode(t, r)); diff != "" {
			t.Errorf("resources (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(served, encode(t, previous)); diff != "" {
			t.Errorf("Previous (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(told, encode(t, statuses)); diff != "" {
			t.Errorf("Statuses (-before +after):\n%s", diff)
		}
	})
}

// What nodes say later makes the statuses that a new translation would have.
func TestReportsNeedNoOtherTranslation(t *testing.T) {
	allCases(t, func(t *testing.T, c goldenCase, r translate.Resources) {
		later := now.Add(time.Minute)
		o := translate.Options{ControllerName: controllerName, DefaultClass: "sluice", Now: now, NodeAddresses: c.options.NodeAddresses}
		translation := translate.Translate(r, o)
		served := c.reports(translation.Snapshot)
		for _, reports := range [][][]config.Report{{nil, served}, {served, nil}, {served, served}} {
			last := translation.Statuses(translate.Feedback{Reports: reports[0]})
			o.Now, o.Statuses = later, last
			want := translate.Translate(r, o).Statuses(translate.Feedback{Reports: reports[1]})
			changed := translation.Reported(later, translate.Feedback{Reports: reports[0]}, translate.Feedback{Reports: reports[1]}, last)
			if diff := cmp.Diff(encode(t, want), encode(t, translate.Updated(last, changed))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if reflect.DeepEqual(reports[0], reports[1]) && len(changed) > 0 {
				t.Errorf("the same reports changed %d statuses", len(changed))
			}
		}
	})
}

// A warning that is left out would be told again as if it were new.
func TestReportsLeaveNoWarningOut(t *testing.T) {
	allCases(t, func(t *testing.T, c goldenCase, r translate.Resources) {
		translation := translate.Translate(r, translate.Options{ControllerName: controllerName, Now: now, NodeAddresses: c.options.NodeAddresses})
		full, empty := translate.Feedback{Reports: c.reports(translation.Snapshot)}, translate.Feedback{Reports: c.reports(translation.Snapshot)}
		for i := range empty.Reports {
			empty.Reports[i].Empty = map[string]string{}
			for _, b := range translation.Snapshot.Backends {
				empty.Reports[i].Empty[b.Name] = "it has no endpoint"
			}
		}
		want := map[translate.Key][]string{}
		for _, s := range translation.Statuses(empty) {
			want[s.Key()] = s.Warnings
		}
		for _, s := range translation.Reported(now, full, empty, translation.Statuses(full)) {
			if diff := cmp.Diff(want[s.Key()], s.Warnings); diff != "" {
				t.Errorf("%s: -want +got:\n%s", s.Key(), diff)
			}
		}
	})
}

func TestTranslateDoesNotCareForTheOrderOfObjects(t *testing.T) {
	allCases(t, func(t *testing.T, c goldenCase, r translate.Resources) {
		want, wantStatuses := c.translate(t, r)
		for seed := range uint64(5) {
			got, statuses := c.translate(t, shuffled(r, rand.New(rand.NewPCG(seed, 1))))
			if diff := cmp.Diff(encode(t, want), encode(t, got)); diff != "" || want.Hash() != got.Hash() {
				t.Fatalf("snapshot (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(encode(t, wantStatuses), encode(t, statuses)); diff != "" {
				t.Fatalf("statuses (-want +got):\n%s", diff)
			}
		}
	})
}

func TestTranslateGivesAValidSnapshotForAnyPartOfTheObjects(t *testing.T) {
	var everything translate.Resources
	check := func(t *testing.T, r translate.Resources, previous *config.Snapshot) {
		t.Helper()
		for _, class := range []string{"", "sluice"} {
			translation := translate.Translate(r, translate.Options{ControllerName: controllerName, DefaultClass: class, Now: now, Previous: previous})
			if err := translation.Snapshot.Validate(); err != nil {
				t.Errorf("%v\n%s", err, encode(t, r))
			}
			for _, st := range translation.Statuses(translate.Feedback{}) {
				st.Problems()
			}
		}
	}
	allCases(t, func(t *testing.T, c goldenCase, r translate.Resources) {
		previous := translate.Translate(r, translate.Options{ControllerName: controllerName, DefaultClass: "sluice", Now: now}).Snapshot
		for seed := range uint64(10) {
			check(t, part(r, rand.New(rand.NewPCG(seed, 2)), 0.7), previous)
		}
		_ = everything.Merge(r) // of equal names the first ones
	})
	// Objects of all cases together meet in ways that nobody thought of.
	for seed := range uint64(50) {
		check(t, part(everything, rand.New(rand.NewPCG(seed, 3)), rand.Float64()), nil)
	}
}

// What is published is each Gateway's part: whatever a listener refers to must
// come along, through the encoding, and the parts must be the whole again.
func TestPublishedPartsAreTheSnapshot(t *testing.T) {
	allCases(t, func(t *testing.T, c goldenCase, r translate.Resources) {
		for _, byNode := range []bool{false, true} {
			s := translate.Translate(r, translate.Options{ControllerName: controllerName, DefaultClass: "sluice", Now: now, ByNode: byNode}).Snapshot
			var parts []*config.Snapshot
			for gateway, part := range s.Parts() {
				secret, err := publication.Encode("sluice-system", gateway, part)
				if err != nil {
					t.Fatal(err)
				}
				decoded, err := publication.Decode(secret)
				if err != nil {
					t.Fatal(err)
				}
				parts = append(parts, decoded)
			}
			joined, left := config.Join(parts)
			if len(left) > 0 {
				t.Errorf("left out: %v", left)
			}
			if diff := cmp.Diff(encode(t, s), encode(t, joined)); diff != "" || s.Hash() != joined.Hash() {
				t.Errorf("-translated +joined:\n%s", diff)
			}
		}
	})
}

// shuffled returns the objects in another order.
func shuffled(r translate.Resources, random *rand.Rand) translate.Resources {
	return lists(r, func(v reflect.Value) reflect.Value {
		random.Shuffle(v.Len(), reflect.Swapper(v.Interface()))
		return v
	})
}

// part returns about a share of the objects.
func part(r translate.Resources, random *rand.Rand, share float64) translate.Resources {
	return lists(r, func(v reflect.Value) reflect.Value {
		out := reflect.Zero(v.Type())
		for i := range v.Len() {
			if random.Float64() < share {
				out = reflect.Append(out, v.Index(i))
			}
		}
		return out
	})
}

// lists returns r with every list of objects replaced by what f makes of a
// copy.
func lists(r translate.Resources, f func(reflect.Value) reflect.Value) translate.Resources {
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		if l := v.Field(i); l.Kind() == reflect.Slice {
			l.Set(f(reflect.AppendSlice(reflect.Zero(l.Type()), l)))
		}
	}
	return r
}

func encode(t *testing.T, v any) string {
	t.Helper()
	if r, ok := v.(translate.Resources); ok {
		all := map[string]any{}
		for f, l := range reflect.ValueOf(r).Fields() {
			if f.Type.Kind() == reflect.Slice {
				all[f.Name] = l.Interface()
			}
		}
		v = all
	}
	out, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
