// SPDX-License-Identifier: Apache-2.0

// Package terminator serves the listeners of a snapshot on one node: it
// accepts connections, terminates TLS or passes it through, picks a route by
// SNI name and an endpoint by load, and relays until both ends are done.
//
// [Server.Apply] takes snapshots, as many as there are; [Server.Run] owns the
// life of it all. A snapshot that changes a certificate, route or endpoint is
// seen by new connections only, and a listening socket stays as long as any
// listener wants its address and port.
//
// Every ClientHello is parsed by crypto/tls, which asks for a verdict before
// it answers: terminate with this listener's certificate, hand all bytes to a
// passthrough route, or refuse with an alert.
//
// crypto/tls refuses a server name with a trailing dot, as RFC 6066 forbids
// it, with decode_error; addresses as server names count as none.
package terminator
