// SPDX-License-Identifier: Apache-2.0

// Package udp serves the UDP listeners of a snapshot in the kernel: nftables
// translates the destination of a session's first datagram, connection
// tracking does the same with all that follow, both ways, and no datagram
// passes this process.
//
// A session is the datagrams between one client address and port and one
// listener. Its backend is chosen by weight, from a hash of the client's
// address and port. Its endpoint is chosen by a hash of the client's address
// alone: all sessions of a client with a backend are at one endpoint, on every
// node, and after a restart. When endpoints come and go only the clients of
// those that went, and the share of those that came, move.
//
// A session stays where it is until it is idle for the listener's timeout, or
// until its endpoint is in none of the route's backends any more; then the
// next datagram begins a new one. What has no endpoint is refused with ICMP
// port unreachable. Endpoints see the node's address, as they do with TCP.
//
// The rules are in one table of their own, "inet sluice", changed in one
// transaction and only where something changed. They serve on when the process
// is killed; the next one takes them over, sessions and counters included. An
// orderly end removes them.
//
// This process holds a socket for each address and port, so that nobody else
// takes it. A datagram that gets there means that somebody removed the rules,
// or that a session is older than they are; both are mended then.
package udp
