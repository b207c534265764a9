// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/bench/leak"
	"github.com/sluice-gateway/sluice/bench/report"
)

func TestMain(m *testing.M) {
	if runPart(os.Args) { // the run under test starts its parts from this binary
		return
	}
	os.Exit(leak.Of(m.Run).Run())
}

// TestASmallRunMeasuresEveryPeer does the first scenarios with each peer, and
// one of every other kind with those that everybody has.
func TestASmallRunMeasuresEveryPeer(t *testing.T) {
	binary, err := buildSluice(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, peer := range peers(binary) {
		if peer.Name == "spliced" {
			continue // agent/splice's and the program's own tests have it
		}
		t.Run(peer.Name, func(t *testing.T) {
			if _, err := peer.Version(); err != nil {
				t.Skip(err)
			}
			measureSome(t, peer, binary, "upload,download x 8,100 B x 1,4 KB x 16,handshake ECDSA")
		})
	}
	for _, list := range []string{
		"64 KB x 16,open 100 B x 16", "handshake RSA,handshake resumed,handshake ECDSA ML-KEM,handshake 5000 names",
		"plain,passthrough", "idle,100 busy", "pgbench,redis-benchmark,mosquitto",
	} {
		t.Run(list, func(t *testing.T) { measureSome(t, peers(binary)[1], binary, list) })
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, error %v", left, err)
	}
}

func measureSome(t *testing.T, peer Peer, binary, list string) {
	found, err := run(t.Context(), options{rounds: 1, peers: peer.Name, scenarios: list, share: 0.005, sluice: binary})
	if err != nil {
		t.Fatal(err)
	}
	todo := pick(scenarios(0.005), list, func(s Scenario) string { return s.Name })
	if len(found.Windows) != len(todo) {
		t.Fatalf("%d windows, want %d", len(found.Windows), len(todo))
	}
	if len(found.Rows) != len(todo) {
		t.Errorf("%d rows, want %d", len(found.Rows), len(todo))
	}
	for i, w := range found.Windows {
		s := todo[i]
		if w.Wall <= 0 || w.Backend <= 0 || w.Client <= 0 {
			t.Errorf("window without figures: %+v", w)
		}
		// The memory of few connections may be less than a page.
		if peer.Name != report.Direct && s.Measured.Op != Hold && (w.Gateway <= 0 || w.PerUnit <= 0) {
			t.Errorf("window without the gateway's figures: %+v", w)
		}
		if wants := s.Measured.Op == Echo || s.Measured.Op == Connect; (w.Latency != nil) != wants {
			t.Errorf("%s: latency is %+v", w.Scenario, w.Latency)
		}
		if (w.Rate > 0) != s.Open {
			t.Errorf("%s: rate is %v", w.Scenario, w.Rate)
		}
		// Handshakes carry a byte, and passthrough is counted too.
		if (w.Spliced != nil) != peer.Metrics || peer.Metrics && *w.Spliced != 0 {
			t.Errorf("%s: spliced share is %v", w.Scenario, w.Spliced)
		}
	}
}

func TestARunGoesOnWhereItStopped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.json")
	o := options{rounds: 1, peers: "direct,naive", scenarios: "100 B x 1", share: 0.005, json: path}
	first, err := run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.rounds, o.scenarios = 2, "100 B x 1,upload"
	second, err := run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Windows) != 2 || len(second.Windows) != 8 {
		t.Fatalf("%d and %d windows, want 2 and 8", len(first.Windows), len(second.Windows))
	}
	for i, w := range first.Windows {
		if got := second.Windows[i]; got.Gateway != w.Gateway || got.Wall != w.Wall {
			t.Errorf("window %d was measured again: %+v, was %+v", i, got, w)
		}
	}
	second.Versions["naive"] = "go1.0"
	if err := second.Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "windows of naive go1.0") {
		t.Errorf("went on with another version: error %v", err)
	}
	o.share = 0.01
	if _, err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "measured elsewhere or otherwise") {
		t.Errorf("went on with other work: error %v", err)
	}
}

func TestAGatewayThatCannotStartIsAFailedWindow(t *testing.T) {
	todo := scenarios(0.01)[:1]
	s, cleanup, err := setStage(t.Context(), t.TempDir(), todo)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cleanup(); err != nil {
			t.Error(err)
		}
	}()
	w := s.measure(t.Context(), sluice("relay", "/bin/false", "off"), todo[0], 0, 0)
	if w.Error == "" {
		t.Error("no error in the window")
	}
}

func TestAPartEndsWithItsStandardInput(t *testing.T) {
	for part := range parts {
		c, err := startChild(context.Background(), part, nil)
		if err != nil {
			t.Fatal(err)
		}
		if part == "part:backend" {
			var at json.RawMessage
			if err := c.send(backendSetup{At: loopback}); err != nil {
				t.Fatal(err)
			}
			if err := c.receive(&at); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Errorf("%s: %v", part, err)
		}
	}
}
