// SPDX-License-Identifier: Apache-2.0

// Package splice gives the agent connections to backends whose bytes skip TCP
// when the backend lives on the same node, and are ordinary TCP connections
// otherwise.
//
// Open loads the programs of package bpf, attaches them to the root of cgroup2,
// proves them on private sockets and then offers Dial, which stands in for
// net.Dialer.DialContext. Everything else happens in the kernel: no work is done
// here for each connection. Where something is missing, Open returns an error
// with a short reason and the agent goes on with net.Dialer.
//
//	s, err := splice.Open(splice.Options{})
//	if u := (*splice.Unavailable)(nil); errors.As(err, &u) {
//		log.Warn("splice off, relaying", "reason", u.Reason, "err", err)
//	}
//	err = s.SetEndpoints(endpoints)            // whom to splice to
//	conn, err := s.Dial(ctx, nil, "tcp", addr) // a *splice.Conn
//
// What is spliced is earned: a connection starts on TCP, and bytes to the
// backend are redirected once it has read a few times by recvmsg(2). (The agent
// is known to read that way.) Either direction is redirected while no byte of it
// lies in TCP and what lies unread is within bounds, at most 1 MiB.
// Towards a backend a Conn waits at that bound, for what it wrote next would
// overtake in TCP if the backend turned to splice(2).
// ARCHITECTURE.md argues why each of these is needed.
package splice
