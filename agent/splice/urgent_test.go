// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// A byte that a backend sends with MSG_OOB keeps its place in the stream, by
// whatever way it goes. TLS knows no urgent data, and to leave it out, as TCP does
// unless told otherwise, would lose a byte.
func TestUrgentDataStaysInTheStream(t *testing.T) {
	s := splicer(t)
	for name, policy := range map[string]Policy{"spliced": On, "by TCP": Off} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, "tcp", "127.0.0.1:0")
			know(t, s, addrOf(l), policy)
			p := ends(t, s, l)
			raw, err := p.backend.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			for i := range 50 {
				var send error
				err := raw.Control(func(fd uintptr) {
					for at, part := range []int{20, 1, 20} {
						flags := 0
						if part == 1 {
							flags = unix.MSG_OOB
						}
						send = errors.Join(send, unix.Sendto(int(fd), pattern(i+[]int{0, 20, 21}[at], part), flags, nil))
					}
				})
				if err := errors.Join(err, send); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(readPattern(p.agent, i, 41), p.pass(p.agent, p.backend, 100)); err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
			}
			if n := p.agent.Counters(); policy == On && (n.SplicedIn == 0 || n.SplicedOut == 0) {
				t.Errorf("%+v: want bytes past TCP both ways", n)
			}
		})
	}
}
