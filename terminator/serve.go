// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/terminator/balance"
	"github.com/sluice-gateway/sluice/terminator/loop"
	"github.com/sluice-gateway/sluice/terminator/record"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

// TLS alerts that are sent before crypto/tls has a say (RFC 8446 section 6.2).
const (
	alertUnexpectedMessage = 10
	alertDecodeError       = 50
	alertInternalError     = 80
)

// alert is a fatal alert record. It may only be sent before keys are in use.
func alert(code byte) []byte { return []byte{21, 3, 3, 0, 2, 2, code} }

// serve takes a new connection to its end.
func (s *Server) serve(c *connection) {
	switch {
	case s.full():
		c.reset(endMemory)
	case c.port.tls:
		s.handshake(c)
	case c.port.tcp != nil:
		l := c.port.tcp
		if !c.enter(l) {
			c.reset(endLimit)
			return
		}
		r, _ := l.l4.find("")
		if r == nil {
			c.reset(endNoRoute)
			return
		}
		b := balance.Choose(r.refs)
		s.carryTCP(c, r.name, b, nil, c.secure(b, plain, ""))
	default:
		s.serveHTTP(c)
	}
}

// reset refuses a connection.
func (c *connection) reset(why relay.End) {
	relay.Abort(c.client)
	c.finish(why, nil)
}

// clientLeg is the net.Conn under crypto/tls, with the verdict on it.
type clientLeg struct {
	*relay.Wire
	c       *connection
	from    netip.Addr // the client's
	verdict verdict
	keys    record.Keys // for the record loop, of a handshake that may lead to it
	http    bool        // served by package http from now on
}

// verdict is what a ClientHello led to.
type verdict struct {
	given       bool
	end         relay.End // refused, when not empty
	alert       byte      // with this alert, or reset when 0
	passthrough bool
	http        bool
	route       string
	backend     *balance.Backend
}

var errVerdict = errors.New("the verdict is not to terminate")

// decide is called by crypto/tls with each ClientHello. It gives the listener's
// configuration, or an error when TLS is not to answer: what it writes then
// is held back.
func (s *Server) decide(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	leg := hello.Conn.(*clientLeg)
	v := &leg.verdict
	v.given = true
	c := leg.c
	name := normalName(hello.ServerName)
	c.set(func(k *known) { k.sni = printable(name) }) // a name of 16 KiB is no name, and would stay
	d := c.port.decide(name)
	v.passthrough, v.http = d.passthrough, d.http
	switch {
	case d.listener == nil:
		// A reset and no alert: the Gateway API wants names that nobody serves
		// to be refused at TCP (conformance, TLSRouteHostnameIntersection).
		v.end = d.end
		return nil, errVerdict
	case !c.enter(d.listener):
		v.end = endLimit
		return nil, errVerdict
	case d.end != "":
		v.end = d.end
		return nil, errVerdict
	}
	if r := d.route; r != nil {
		v.route, v.backend = r.name, balance.Choose(r.refs)
		if v.backend == nil || len(v.backend.Endpoints()) == 0 {
			c.set(func(k *known) { k.route = r.name })
			v.end = endNoEndpoint
			return nil, errVerdict
		}
	}
	switch {
	case v.passthrough:
		return nil, errVerdict
	case d.listener.err != nil:
		v.end, v.alert = endNotServed, alertInternalError
		return nil, errVerdict
	}
	if v.end = leg.compute(); v.end != "" {
		return nil, errVerdict
	}
	leg.Decide()
	if !d.http && !s.NoRecordLoop {
		return leg.keys.Config(d.config()), nil
	}
	return d.config(), nil
}

// compute waits for the handshake's turn to compute, which lasts until it waits
// for the client. It returns how the connection ends when there is none.
func (leg *clientLeg) compute() relay.End {
	c, turns := leg.c, &leg.c.s.turns
	if w := turns.take(&c.listener.share, leg.from); w != nil {
		if !c.wait(w) {
			return endShed
		}
		// Whoever gave the turn has put this goroutine before all others that can
		// run, such as event loops. One behind the other, handshakes would keep them
		// waiting for as long as the flood lasts.
		runtime.Gosched()
		if relay.Gone(c.client) {
			turns.give(&c.listener.share, 0)
			return endHandshake
		}
	}
	runtime.LockOSThread() // its processor time is the handshake's
	began := loop.Used()
	leg.OnWait = func() {
		leg.OnWait = nil
		turns.give(&c.listener.share, loop.Used()-began)
		runtime.UnlockOSThread()
	}
	return ""
}

// certificate is tls.Config.GetCertificate. A client that was asked for another
// ClientHello (HelloRetryRequest) has lost its turn by then.
func (l *listener) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if leg, ok := hello.Conn.(*clientLeg); ok && leg.OnWait == nil {
		if end := leg.compute(); end != "" {
			leg.verdict.end = end
			return nil, errVerdict
		}
	}
	return l.chooser.choose(hello)
}

// handshake runs TLS until there is a verdict and, when that is to terminate,
// until the connection is established and carried.
func (s *Server) handshake(c *connection) {
	leg := &clientLeg{Wire: relay.NewWire(c.client), c: c, from: addrPort(c.client.RemoteAddr()).Addr(), keys: record.Keys{NoGCM: s.NoGCM}}
	_ = c.client.SetDeadline(c.known.start.Add(s.HandshakeTimeout))
	var conn *tls.Conn
	err := leg.Await()
	if err == nil {
		conn = tls.Server(leg, s.hello)
		err = conn.Handshake()
	}
	if leg.OnWait != nil {
		leg.OnWait()
	}
	c.handshook = time.Since(c.known.start)
	s.conns.grown(c)
	defer leg.keys.Wipe()
	v := &leg.verdict
	switch {
	case v.given && v.end != "" && v.alert != 0:
		leg.Refuse(alert(v.alert))
		c.finish(v.end, nil)
	case v.given && v.end != "":
		c.reset(v.end)
	case v.passthrough:
		_ = c.client.SetDeadline(time.Time{})
		s.carryTCP(c, v.route, v.backend, leg.Replay(), plain)
	case err != nil:
		s.Metrics.handshake(c, nil, err)
		c.finishHandshake(leg, err)
	default:
		_ = c.client.SetDeadline(time.Time{})
		ackNow(c.client)
		cs := conn.ConnectionState()
		s.Metrics.handshake(c, &cs, nil)
		certificate := c.listener.clientCertificate(&cs)
		c.set(func(k *known) {
			k.alpn, k.version, k.suite, k.certificate = cs.NegotiatedProtocol, cs.Version, cs.CipherSuite, certificate
		})
		if v.http {
			s.serveHTTPS(c, leg, conn)
			return
		}
		s.carryTLS(c, v.route, v.backend, s.clientSide(c, leg, conn, &cs), cs.NegotiatedProtocol)
	}
}

// ackNow acknowledges the end of the handshake at once. The server has nothing
// to send then, so the kernel would delay the acknowledgement, and a client
// without TCP_NODELAY holds its first data back for it: 40 ms.
func ackNow(c *net.TCPConn) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	}
}

// finishHandshake ends a connection whose handshake failed. crypto/tls has
// sent its alert already, or it is held back with the verdict outstanding.
func (c *connection) finishHandshake(leg *clientLeg, err error) {
	var notTLS tls.RecordHeaderError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		relay.Abort(c.client)
		c.finish(endHandshakeTimeout, err)
	case leg.verdict.given:
		leg.Refuse(nil)
		c.finish(endHandshake, err)
	case errors.Is(err, relay.ErrHelloTooLong):
		leg.Refuse(alert(alertDecodeError))
		c.finish(endHandshake, err)
	case errors.As(err, &notTLS):
		message := leg.Held()
		if len(message) == 0 {
			message = alert(alertUnexpectedMessage)
		}
		leg.Refuse(message)
		c.finish(endNotTLS, err)
	case len(leg.Held()) > 0:
		leg.Refuse(leg.Held())
		c.finish(endHandshake, err)
	default:
		relay.Abort(c.client)
		c.finish(endHandshake, err)
	}
}

// clientSide is the established client leg for the relay: in the record loop, or with
// its tls.Conn where that does not take it.
func (s *Server) clientSide(c *connection, leg *clientLeg, conn *tls.Conn, cs *tls.ConnectionState) relay.Side {
	if !s.NoRecordLoop && leg.AtRecord() {
		if taken := leg.keys.Take(cs, leg.Wire); taken != nil {
			return relay.Side{Leg: c.client, Record: taken, Wire: leg.Wire}
		}
	}
	return relay.Side{Leg: c.client, TLS: conn, Wire: leg.Wire}
}

// carryTLS connects a terminated connection and relays it.
func (s *Server) carryTLS(c *connection, route string, to *balance.Backend, client relay.Side, protocol string) {
	records := client.Record // and no more of client lives on with the connection
	over := func(end relay.End, err error) {
		if records != nil {
			records.Wipe()
		}
		c.finish(end, err)
	}
	backend, endpoint, end, err := s.connect(c, route, to, c.secure(to, s.Dial, protocol))
	if end != "" {
		relay.Abort(c.client)
		over(end, err)
		return
	}
	looped := s.loops.Prepare(client, backendSide(backend), &c.progress)
	if !c.attach(backend, false, looped) {
		endpoint.Release()
		over(endDrain, nil)
		return
	}
	if looped != nil {
		looped.Start(s.onLoop(func(end relay.End, err error) {
			endpoint.Release()
			over(end, err)
		}))
		return
	}
	// A fresh goroutine: a handshake leaves a large stack.
	go func() {
		end, err := relay.Carry(client, backendSide(backend), &c.progress)
		endpoint.Release()
		over(end, err)
	}()
}

// onLoop makes a function one that an event loop may call: it may wait for the
// access log, and so needs a goroutine where there is one.
func (s *Server) onLoop(over func(relay.End, error)) func(relay.End, error) {
	if !s.logsAccess() {
		return over
	}
	return func(end relay.End, err error) { go over(end, err) }
}

// carryTCP connects a connection whose client leg is not terminated and relays
// it. first is what the client has sent already.
func (s *Server) carryTCP(c *connection, route string, to *balance.Backend, first []byte, d dial) {
	backend, endpoint, end, err := s.connect(c, route, to, d)
	if end != "" {
		relay.Abort(c.client)
		c.finish(end, err)
		return
	}
	tcp, kernel := backend.(*net.TCPConn)
	over := func(end relay.End, err error) {
		endpoint.Release()
		c.finish(end, err)
	}
	var looped *relay.Looped
	if kernel {
		looped = s.loops.Prepare(relay.Side{Leg: c.client}, relay.Side{Leg: tcp}, &c.progress)
	}
	if !c.attach(backend, kernel, looped) {
		over(endDrain, nil)
		return
	}
	if !kernel {
		go func() { over(relay.Carry(relay.Side{Leg: c.client}, backendSide(backend), &c.progress)) }()
		return
	}
	if len(first) > 0 {
		if _, err := tcp.Write(first); err != nil {
			relay.Abort(tcp)
			relay.Abort(c.client)
			over(relay.BackendReset, nil)
			return
		}
		c.progress.Up.Add(int64(len(first)))
	}
	if looped != nil {
		looped.Start(s.onLoop(over))
		return
	}
	go func() { over(relay.TCP(c.client, tcp, &c.progress)) }()
}
