// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T47: what lies pinned is of another version: maps of the same names with other
// types, keys and values, of an agent that was killed. They are replaced, and
// nothing of them is believed.
func TestPinsOfAnotherVersionAreReplaced(t *testing.T) {
	base := filepath.Join(bpffs(t), "sluice")
	for _, mode := range []string{"killed", "alive"} {
		t.Run(mode, func(t *testing.T) {
			figures.Record(t, &figures.Figures{Connections: 1, Bytes: 1000, Faults: 1, What: "maps of another layout are pinned"})
			if err := os.MkdirAll(base, 0o755); err != nil {
				t.Fatal(err)
			}
			old := map[string]*ebpf.Map{}
			for _, name := range []string{"sl_config", "sl_endpoints", "sl_flows", "sl_socks", "sl_outcomes", "sl_of_old"} {
				m, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Hash, KeySize: 12, ValueSize: 200, MaxEntries: 10})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				if err := m.Put(make([]byte, 12), bytes.Repeat([]byte{0xff}, 200)); err != nil {
					t.Fatal(err)
				}
				if err := m.Pin(filepath.Join(base, name)); err != nil {
					t.Fatal(err)
				}
				old[name] = m
			}
			var lock *os.File
			if mode == "alive" {
				var err error
				if lock, err = lockDir(base); err != nil {
					t.Fatal(err)
				}
			}
			s := open(t, Options{PinDir: base})
			dir := s.SelfTest().Pins
			if (dir == base) != (mode == "killed") {
				t.Errorf("pinned in %s", dir)
			}
			if n := len(names(t, dir)); n != pinned {
				t.Errorf("%d maps are pinned", n)
			}
			for name := range old {
				m, err := ebpf.LoadPinnedMap(filepath.Join(base, name), &ebpf.LoadPinOptions{ReadOnly: true})
				if mode == "killed" && errors.Is(err, fs.ErrNotExist) {
					continue // gone
				}
				if err != nil {
					t.Fatal(err)
				}
				info, err := m.Info()
				m.Close()
				if err != nil {
					t.Fatal(err)
				}
				if got := info.ValueSize == 200; got != (mode == "alive") {
					t.Errorf("%s has values of %d bytes", name, info.ValueSize)
				}
			}
			l := listen(t, "tcp", "127.0.0.1:0")
			if err := s.SetEndpoints([]Endpoint{{Address: addrOf(l), Route: "default/redis"}}); err != nil {
				t.Fatal(err)
			}
			p := ends(t, s, l)
			warm(t, p)
			if err := p.pass(p.agent, p.backend, 1000); err != nil {
				t.Error(err)
			}
			if lock != nil {
				lock.Close()
				if err := sweep(base, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
