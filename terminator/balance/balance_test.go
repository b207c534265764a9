// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"
)

func backend(t *testing.T, addresses ...string) *Backend {
	t.Helper()
	var s Set
	all, _ := s.Update(map[string][]string{"b": addresses})
	return all["b"]
}

func TestChooseSharesConnectionsByWeight(t *testing.T) {
	a, b := backend(t, "a:1"), backend(t, "b:1")
	for _, tt := range []struct {
		name string
		refs []Ref
		want map[*Backend]float64
	}{
		{"nothing", nil, map[*Backend]float64{nil: 1}},
		{"no weight", []Ref{{a, 0}, {b, 0}}, map[*Backend]float64{nil: 1}},
		{"one", []Ref{{a, 1}}, map[*Backend]float64{a: 1}},
		{"nine to one", []Ref{{a, 9}, {b, 1}}, map[*Backend]float64{a: .9, b: .1}},
		{"a share without backend", []Ref{{a, 1}, {nil, 1}}, map[*Backend]float64{a: .5, nil: .5}},
		{"the largest weights", []Ref{{a, 1_000_000}, {b, 1_000_000}, {nil, 0}}, map[*Backend]float64{a: .5, b: .5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const n = 20_000
			got := map[*Backend]int{}
			for range n {
				got[Choose(tt.refs)]++
			}
			for b, c := range got {
				// Five standard deviations of a fair choice.
				if off := math.Abs(float64(c)/n - tt.want[b]); off > 5*math.Sqrt(.25/n) {
					t.Errorf("backend %v got %d of %d, want a share of %v", b, c, n, tt.want[b])
				}
			}
		})
	}
}

func TestPickTakesEachEndpointOnceAndThenNone(t *testing.T) {
	b := backend(t, "1", "2", "3", "4", "5")
	now := time.Now()
	var tried []*Endpoint
	seen := map[string]bool{}
	for range 5 {
		e := b.Pick(now, tried)
		if e == nil || seen[e.Address] {
			t.Fatalf("pick after %d tries: %v", len(tried), e)
		}
		seen[e.Address] = true
		e.Failed(now)
		e.Release()
		tried = append(tried, e)
	}
	if e := b.Pick(now, tried); e != nil {
		t.Errorf("pick after all were tried: %v", e)
	}
	if e := backend(t).Pick(now, nil); e != nil {
		t.Errorf("pick without endpoints: %v", e)
	}
}

func TestPickTriesFailedEndpointsLastAndOldestFailureFirst(t *testing.T) {
	b := backend(t, "old", "new", "well")
	now := time.Now()
	all := b.Endpoints()
	all[0].Failed(now.Add(-2 * time.Second))
	all[1].Failed(now)
	for range 100 {
		e := b.Pick(now, nil)
		if e != all[2] {
			t.Fatalf("picked %s while %s is well", e.Address, all[2].Address)
		}
		if e := b.Pick(now, all[2:]); e != all[0] {
			t.Fatalf("picked %s, want the one that failed first", e.Address)
		}
	}
	all[1].Works()
	if e := b.Pick(now, all[2:]); e != all[1] {
		t.Errorf("picked %s, want the one that works again", e.Address)
	}
	seen := map[string]bool{}
	for range 1000 {
		seen[b.Pick(now.Add(penalty+time.Second), nil).Address] = true
	}
	if len(seen) != 3 {
		t.Errorf("after the penalty only %v are used", seen)
	}
}

func TestPickKeepsLoadEven(t *testing.T) {
	var addresses []string
	for i := range 10 {
		addresses = append(addresses, fmt.Sprint(i))
	}
	b := backend(t, addresses...)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2500 {
				b.Pick(time.Now(), nil)
			}
		})
	}
	wg.Wait()
	for _, e := range b.Endpoints() {
		// With two choices the largest excess over the mean of 1000 is of the
		// order of log log n; a plain random choice deviates by about 100.
		if e.Active() < 980 || e.Active() > 1020 {
			t.Errorf("endpoint %s has %d of 10000 connections", e.Address, e.Active())
		}
	}
}

func TestUpdateKeepsWhatIsKnownOfAnEndpoint(t *testing.T) {
	var s Set
	first, shrunk := s.Update(map[string][]string{"b": {"1", "2"}, "c": {"3"}})
	if len(shrunk) != 0 {
		t.Errorf("shrunk at first: %v", shrunk)
	}
	e := first["b"].Pick(time.Now(), first["b"].Endpoints()[1:])
	second, shrunk := s.Update(map[string][]string{"b": {"1", "4"}})
	if second["b"] != first["b"] || second["b"].Endpoints()[0] != e || e.Active() != 1 {
		t.Errorf("endpoint 1 lost its state")
	}
	if len(shrunk) != 2 {
		t.Errorf("shrunk: %v, want b and c", shrunk)
	}
	e.Release()
	if e.Active() != 0 {
		t.Errorf("active after release: %d", e.Active())
	}
}
