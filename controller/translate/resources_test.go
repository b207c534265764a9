// SPDX-License-Identifier: Apache-2.0

package translate_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

func services(source string, names ...string) translate.Resources {
	r := translate.Resources{Sources: map[translate.Key]string{}}
	for _, n := range names {
		r.Services = append(r.Services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: n}})
		r.Sources[translate.Key{Kind: "Service", Namespace: "shop", Name: n}] = source
	}
	return r
}

func names(r translate.Resources) []string {
	var out []string
	for _, s := range r.Services {
		out = append(out, s.Name)
	}
	return out
}

func TestMergeKeepsTheFirstOfTwoAndNamesBoth(t *testing.T) {
	all := services("a.yaml:1", "x", "y")
	err := all.Merge(services("b.yaml:7", "y", "z", "z"))
	want := "b.yaml:7: Service shop/y is already defined at a.yaml:1, which counts; delete one of the two\n" +
		"b.yaml:7: Service shop/z is already defined at b.yaml:7, which counts; delete one of the two"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if diff := cmp.Diff([]string{"x", "y", "z"}, names(all)); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if got := all.Sources[translate.Key{Kind: "Service", Namespace: "shop", Name: "y"}]; got != "a.yaml:1" {
		t.Errorf("source of y is %q", got)
	}
}

func TestMergeChangesNothingThatIsShared(t *testing.T) {
	a, b := services("a", "x"), services("b", "y")
	a.Services = append(make([]*corev1.Service, 0, 8), a.Services...) // room to write into
	shared := a
	if err := a.Merge(b); err != nil {
		t.Fatal(err)
	}
	if err := shared.Merge(services("c", "z")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x", "y"}, names(a)); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if len(b.Sources) != 1 || len(a.Sources) != 2 {
		t.Errorf("sources %v and %v", a.Sources, b.Sources)
	}
}

func TestMergeOfObjectsWithoutSourcesStillReports(t *testing.T) {
	all := services("", "x")
	if err := all.Merge(services("", "x")); err == nil {
		t.Error("no error")
	}
}
