// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// work is a handler that does something and reads nothing.
type work func()

// Ready implements [Handler].
func (f work) Ready(*Watch, uint32) { f() }

// TestLoadIsThatOfTheLoop has it work without pause, and then not at all.
func TestLoadIsThatOfTheLoop(t *testing.T) {
	l := start(t)
	for l.Load() < 0.1 { // others may want the processors, too
		do(t, l, func() {
			for end := Used() + time.Millisecond; Used() < end; {
			}
		})
	}
	for l.Load() > 0 {
		time.Sleep(Tick)
	}
}

// What a loop does for sockets that it just got does not count as that of settled ones.
func TestSettledIsTheLoadOfOldSockets(t *testing.T) {
	l := start(t)
	a, b := pair(t, listen(t))
	if err := Leave(a); err != nil {
		t.Fatal(err)
	}
	raw, err := a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	w := &Watch{Socket: raw}
	young := 0
	do(t, l, func() {
		if err := l.Add(w, work(func() { // and reads nothing, so it is called again at once
			for end := Used() + 10*time.Microsecond; Used() < end; {
			}
			if !w.settled {
				if young++; l.meter.old > 0 {
					t.Error("an event of a new socket counts")
				}
			}
		}), unix.EPOLLIN); err != nil {
			t.Error(err)
		}
	})
	if _, err := b.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	for used := 0.0; used < 0.05; used, _ = l.Settled() { // others may want the processors, too
		time.Sleep(Tick)
	}
	do(t, l, func() {
		l.Remove(w)
		if young == 0 {
			t.Error("it was never new")
		}
	})
	for used, waited := 1.0, 1.0; used+waited > 0; used, waited = l.Settled() {
		time.Sleep(Tick)
	}
}
