// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// frame is a frame as send makes it, but for the sockets.
func frame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// FuzzConversation says anything to either side of a handover. Both come to an
// end when the other one goes away, leave no descriptor open, and the running
// agent leaves only for a successor that says that it serves.
func FuzzConversation(f *testing.F) {
	end := frame("null")
	f.Add(append(frame(`["listener","admin"]`), end...), uint8(2))
	f.Add(append(append(frame(`["listener"]`), frame(`["metrics"]`)...), end...), uint8(1))
	f.Add(append(end, "left\n{\"connections\":3}\n{\"connections\":0}\n"...), uint8(0))
	f.Add(append(end, "left\n{\"connections\":-1,\"until\":\"x\"}\n"...), uint8(0))
	f.Add(frame(`["listener"]`), uint8(0))
	f.Add(frame(`[]`), uint8(3))
	f.Add(frame(`{"a":1}`), uint8(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '['}, uint8(1))
	f.Add([]byte{0, 0}, uint8(1))
	f.Add([]byte("serving\n"), uint8(0))
	f.Add([]byte("serving"), uint8(0))
	f.Add([]byte(nil), uint8(1))
	f.Fuzz(func(t *testing.T, said []byte, sockets uint8) {
		if len(said) > 64<<10 { // more than the socket takes at once
			t.Skip()
		}
		before := descriptors(t)
		toSuccessor(t, said, int(sockets%4))
		toRunning(t, said)
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors are open, before it were %d", after, before)
		}
	})
}

// toSuccessor plays an agent that hands over.
func toSuccessor(t *testing.T, said []byte, sockets int) {
	old, successor := pair(t)
	var fds []int
	for range sockets {
		l := listen(t, "tcp", "127.0.0.1:0")
		fd, err := duplicate(l)
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if len(said) > 0 { // a stream carries descriptors with bytes only
		if n, _, err := old.WriteMsgUnix(said, rights, nil); err != nil || n != len(said) {
			t.Fatalf("%d of %d bytes written: %v", n, len(said), err)
		}
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	_ = old.CloseWrite()
	if offer, err := Receive(successor); err == nil {
		if offer.Serving() == nil {
			offer.Rest(func(Rest) {})
		}
		offer.Close()
	}
	old.Close()
	successor.Close()
}

// toRunning plays a successor.
func toRunning(t *testing.T, said []byte) {
	running, successor := pair(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	if _, err := successor.Write(said); err != nil {
		t.Fatal(err)
	}
	_ = successor.CloseWrite()
	left := false
	err := Give(running, []Socket{{"listener", l}}, func() { left = true })
	if serving := string(said[:min(len(said), 8)]) == "serving\n"; left != serving || (err == nil) != serving {
		t.Errorf("said %q: left %t, %v", said, left, err)
	}
	if err == nil {
		Tell(running, func() Rest { return Rest{} })
	}
	successor.Close()
	running.Close()
	l.Close()
}

// descriptors counts those of this process that are sockets: the runtime's and
// the fuzzer's own are none, or stay.
func descriptors(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && len(to) > 7 && to[:7] == "socket:" {
			n++
		}
	}
	return n
}
