// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"

	"github.com/sluice-gateway/sluice/terminator/relay"
)

// decision is what a port with TLS makes of a client's server name. It is all
// that serving and explaining a connection have in common.
type decision struct {
	listener    *listener // nil: nobody serves the name
	end         relay.End // why the connection is refused, "" when it is not
	passthrough bool
	http        bool
	route       *route // nil with HTTP, and where there is none
}

// decide takes a name as normalName gives it.
func (p *port) decide(name string) decision {
	l, ok := p.byName.find(name)
	switch {
	case !ok:
		return decision{end: endNoListener}
	case l.config.NotServed != "":
		return decision{listener: l, end: endNotServed}
	}
	d := decision{listener: l, passthrough: l.config.TLS.Passthrough}
	if d.http = !d.passthrough && l.claimsHTTP(name); d.http {
		return d
	}
	if d.route, ok = l.l4.find(name); !ok {
		d.end = endNoRoute
	}
	return d
}

// config is what TLS is terminated with.
func (d *decision) config() *tls.Config {
	if d.http {
		return d.listener.forHTTP
	}
	return d.listener.forL4
}
