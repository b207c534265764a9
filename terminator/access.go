// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/sluice-gateway/sluice/terminator/httproute"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

func (s *Server) logsAccess() bool {
	return s.AccessLog != nil && s.AccessLog.Enabled(context.Background(), slog.LevelInfo)
}

// log writes the access log record of a connection that has ended. Durations
// are in seconds. A peer that resets is routine: the error is an attribute.
func (c *connection) log(i *Connection, end relay.End, err error) {
	if !c.s.logsAccess() {
		return
	}
	if c.http {
		// It may have carried requests for several: they have records of their own.
		i.Route, i.Backend, i.Endpoint = "", "", ""
	}
	attrs := []slog.Attr{
		slog.Uint64("id", i.ID),
		slog.Time("start", i.Start),
		slog.Float64("duration", time.Since(i.Start).Seconds()),
		slog.Float64("handshake", c.handshook.Seconds()),
		slog.Float64("connect", c.connected.Seconds()),
		slog.String("client", i.Client.String()),
		slog.String("local", i.Local.String()),
		slog.String("listener", i.Listener),
		slog.String("sni", i.SNI),
		slog.String("alpn", i.ALPN),
		slog.String("tls_version", i.TLSVersion),
		slog.String("cipher_suite", i.CipherSuite),
		slog.String("client_certificate", i.ClientCertificate),
		slog.String("route", i.Route),
		slog.String("backend", i.Backend),
		slog.String("endpoint", i.Endpoint),
		slog.Int64("up", i.Up),
		slog.Int64("down", i.Down),
		slog.String("path", i.Path),
		slog.String("reason", i.Reason),
		slog.String("result", string(end)),
	}
	if c.http {
		attrs = append(attrs, slog.Int64("requests", c.requests.Load()))
	}
	if i.ClientCertificateProblem != "" {
		attrs = append(attrs, slog.String("client_certificate_problem", i.ClientCertificateProblem))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	c.s.AccessLog.LogAttrs(context.Background(), slog.LevelInfo, "connection", attrs...)
}

// logRequest writes the access log record of an HTTP request that is over.
// The query is left out: it is where secrets are.
func (c *connection) logRequest(r *http.Request, q *httproute.Served) {
	if !c.s.logsAccess() {
		return
	}
	c.s.AccessLog.LogAttrs(context.Background(), slog.LevelInfo, "request",
		slog.Uint64("id", c.known.id),
		slog.String("request_id", q.RequestID),
		slog.Time("start", q.Start),
		slog.Float64("duration", time.Since(q.Start).Seconds()),
		slog.String("client", addrPort(c.client.RemoteAddr()).String()),
		slog.String("listener", q.Listener),
		slog.String("protocol", r.Proto),
		slog.String("method", printable(r.Method)), // HTTP/2 has no rules for the two
		slog.String("host", printable(r.Host)),
		slog.String("path", r.URL.EscapedPath()),
		slog.Int("status", q.Status),
		slog.String("route", q.Route),
		slog.String("backend", q.Backend),
		slog.String("endpoint", q.Endpoint),
		slog.Int64("up", q.Up),
		slog.Int64("down", q.Down),
		slog.String("result", string(q.Result)),
	)
}
