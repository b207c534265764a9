// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if runPart(os.Args) { // the run under test starts its parts from this binary
		return
	}
	goleak.VerifyTestMain(m)
}

func TestASmallRunMeasuresEveryScenario(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, peer := range peers("")[1:] {
		t.Run(peer.Name, func(t *testing.T) {
			if !peer.Metrics { // Sluice is built
				if _, err := peer.Version(); err != nil {
					t.Skip(err)
				}
			}
			report, err := run(t.Context(), options{rounds: 1, peers: peer.Name, share: 0.005})
			if err != nil {
				t.Fatal(err)
			}
			if want := len(scenarios(1)); len(report.Windows) != want {
				t.Errorf("%d windows, want %d", len(report.Windows), want)
			}
			for _, w := range report.Windows {
				if w.Gateway <= 0 || w.Backend <= 0 || w.Client <= 0 || w.PerUnit <= 0 || w.Wall <= 0 {
					t.Errorf("window without figures: %+v", w)
				}
				if (w.Latency != nil) != (w.Scenario[0] == '1') {
					t.Errorf("%s: latency is %+v", w.Scenario, w.Latency)
				}
				if (w.Spliced != nil) != peer.Metrics || peer.Metrics && *w.Spliced != 0 {
					t.Errorf("%s: spliced share is %v", w.Scenario, w.Spliced)
				}
			}
		})
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, error %v", left, err)
	}
}

func TestAGatewayThatCannotStartIsAFailedWindow(t *testing.T) {
	s, cleanup, err := setStage(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cleanup(); err != nil {
			t.Error(err)
		}
	}()
	peer := sluice("relay", "/bin/false", "off")
	w := s.measure(t.Context(), peer, scenarios(0.01)[0], 0)
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
			if err := c.send("127.0.0.1"); err != nil {
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
