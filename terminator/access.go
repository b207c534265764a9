// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"log/slog"
	"time"

	"github.com/sluice-gateway/sluice/terminator/relay"
)

// log writes the access log record of a connection that has ended. Durations
// are in seconds. A peer that resets is routine: the error is an attribute.
func (c *connection) log(i *Connection, end relay.End, err error) {
	log := c.s.AccessLog
	if log == nil || !log.Enabled(context.Background(), slog.LevelInfo) {
		return
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
		slog.String("route", i.Route),
		slog.String("backend", i.Backend),
		slog.String("endpoint", i.Endpoint),
		slog.Int64("up", i.Up),
		slog.Int64("down", i.Down),
		slog.String("path", i.Path),
		slog.String("reason", i.Reason),
		slog.String("result", string(end)),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, "connection", attrs...)
}
