// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// connections counts the lines of an access log; -1 is no file.
func connections(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return -1
	}
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte("\n"))
}

// eventually waits for a condition that needs no more than scheduling.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// The access log is rotated as logrotate does it, under connections: each has
// one line, in one of the files.
func TestSIGHUPOpensTheAccessLogAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "access.log")
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off", "-access-log", path)
	made := 0
	talkOnce := func() {
		t.Helper()
		if err := talk(g.port, serverName); err != nil {
			t.Fatal(err)
		}
		made++
	}
	eventually(t, "the end of what the launch did", func() bool { return strings.TrimSpace(g.conns()) == "[]" })
	before := connections(t, path)
	for range 5 {
		talkOnce()
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	talkOnce() // still in the old one
	g.signal(syscall.SIGHUP)
	eventually(t, "a new file", func() bool { return connections(t, path) >= 0 })
	for range 5 {
		talkOnce()
	}
	eventually(t, "a line for each connection", func() bool {
		return connections(t, path+".1")+connections(t, path) == before+made
	})
	if n := connections(t, path); n < 4 { // one may have begun in the old file
		t.Errorf("%d lines in the new file", n)
	}

	// Where it cannot be opened it goes on, and that is said.
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	g.signal(syscall.SIGHUP)
	eventually(t, "a complaint", func() bool { return strings.Contains(g.logged(), "the access log goes on in the old file") })
	talkOnce()
	moved := filepath.Join(dir+".moved", "access.log")
	eventually(t, "a line in the old file", func() bool { return connections(t, moved+".1")+connections(t, moved) == before+made })
}
