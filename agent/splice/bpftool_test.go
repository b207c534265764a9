// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/bpf"
)

var update = flag.Bool("update", false, "rewrite testdata")

// What people see: the maps by name, with their types.
func TestBpftoolShowsTheMapsByName(t *testing.T) {
	tool, err := exec.LookPath("bpftool")
	if err != nil {
		if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
			t.Fatal("bpftool is not installed: apt-get install bpftool")
		}
		t.Skip("bpftool is not installed: apt-get install bpftool")
	}
	base := filepath.Join(bpffs(t), "sluice")
	s := open(t, Options{PinDir: base})
	l := listen(t, "tcp", "127.0.0.1:0")
	off := listen(t, "tcp", "127.0.0.1:0")
	serve(t, off, echo)
	addr := addrOf(l)
	err = s.SetEndpoints([]Endpoint{{Address: addr, Route: "default/redis"}, {Address: addrOf(off), Route: "default/tftp", Policy: Off}})
	if err != nil {
		t.Fatal(err)
	}
	if err := roundTrips(dial(t, s, addrOf(off)), 1); err != nil {
		t.Fatal(err)
	}
	p := ends(t, s, l)
	warm(t, p)
	if err := p.pass(p.agent, p.backend, 1000); err != nil {
		t.Fatal(err)
	}

	var out strings.Builder
	for _, name := range []string{"sl_endpoints", "sl_flows", "sl_outcomes", "sl_config"} {
		// The order of a hash is arbitrary, so show one endpoint.
		if name == "sl_endpoints" {
			if err := s.SetEndpoints([]Endpoint{{Address: addr, Route: "default/redis"}}); err != nil {
				t.Fatal(err)
			}
		}
		b, err := exec.Command(tool, "map", "dump", "pinned", filepath.Join(base, name)).CombinedOutput()
		if err != nil {
			t.Fatalf("bpftool: %v: %s", err, b)
		}
		out.WriteString("# bpftool map dump pinned /sys/fs/bpf/sluice/" + name + "\n")
		out.Write(b)
	}
	got := normal(out.String())
	golden := filepath.Join("testdata", "bpftool.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// normal replaces what differs from run to run.
func normal(s string) string {
	for _, r := range []struct{ re, with string }{
		{`127\.0\.0\.1:\d+`, "127.0.0.1:PORT"},
		{`("agent_port"|"port"): \d+`, "$1: PORT"},
		{`("copied_seq"|"first_seq"|"next_seq"): \d+`, "$1: SEQ"},
		{`("key"|"id"): \d{2,}`, "$1: COOKIE"},
		{`"room": \d+`, `"room": BYTES`},
		{`("owner"|"sys_splice"|"sys_splice_compat"|"sys_ioctl"|"fionread"): \d+`, "$1: N"},
	} {
		s = regexp.MustCompile(r.re).ReplaceAllString(s, r.with)
	}
	return s
}

// The kernel cuts longer names, and then bpftool does not find them.
func TestNamesOfMapsAndProgramsFit(t *testing.T) {
	spec, err := bpf.LoadSplice()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range spec.Maps {
		if name != ".rodata" {
			names = append(names, name)
		}
	}
	for name := range spec.Programs {
		names = append(names, name)
	}
	for _, name := range names {
		if len(name) > 15 || !strings.HasPrefix(name, "sl_") {
			t.Errorf("%s: want the prefix sl_ and at most 15 bytes", name)
		}
	}
}

func TestSetEndpointsKeepsWhatWasLearned(t *testing.T) {
	s := open(t, Options{})
	a, b := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("[fd00::1]:443")
	set := func(endpoints ...Endpoint) {
		t.Helper()
		if err := s.SetEndpoints(endpoints); err != nil {
			t.Fatal(err)
		}
	}
	set(Endpoint{Address: a, Route: "default/a"}, Endpoint{Address: b, Route: "default/b", Policy: Off})
	key := bpf.SpliceSlEndpointKey{Ip: a.Addr().As16(), Port: a.Port()}
	learned := endpoint(t, s, key)
	learned.Reader, learned.Unjoined = bpf.SpliceSlReaderSlBySplice, 7
	if err := s.objs.SlEndpoints.Put(key, &learned); err != nil {
		t.Fatal(err)
	}
	set(Endpoint{Address: a, Route: "default/renamed", Policy: On})
	got := endpoint(t, s, key)
	if got.Reader != learned.Reader || got.Unjoined != 7 {
		t.Errorf("what was learned is lost: %+v", got)
	}
	if cString(got.Route[:]) != "default/renamed" || Policy(got.Policy) != On || cString(got.Endpoint[:]) != "10.0.0.1:80" {
		t.Errorf("endpoint is %+v", got)
	}
	var n int
	var v bpf.SpliceSlEndpoint
	for it := s.objs.SlEndpoints.Iterate(); it.Next(&key, &v); {
		n++
	}
	if n != 1 {
		t.Errorf("%d endpoints, want 1", n)
	}
}
