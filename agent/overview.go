// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/terminator"
)

// What an overview has at most: it is for people to look at.
const (
	mostConnections = 200
	mostFlows       = 400 // without those that carried something
)

// Overview is what a node does, at one moment. It holds no secrets.
type Overview struct {
	At      time.Time         `json:"at"`
	Status  Status            `json:"status"`
	Traffic []terminator.Flow `json:"traffic"`
	// Open are the open connections, Matches those of them that a search finds,
	// and Connections the newest of these, newest first.
	Open        int                     `json:"open"`
	Matches     int                     `json:"matches"`
	Connections []terminator.Connection `json:"connections"`
}

// Overview tells what the node does now, and finds connections: those that have
// every word of search in a name, an address, a path or a reason.
func (a *Agent) Overview(search string) Overview {
	all := a.Connections()
	o := Overview{Open: len(all), Status: a.Status(), Traffic: a.opts.Server.Traffic(mostFlows), At: time.Now()}
	words := strings.Fields(strings.ToLower(search))
	all = slices.DeleteFunc(all, func(c terminator.Connection) bool { return !matches(&c, words) })
	slices.Reverse(all)
	o.Matches = len(all)
	o.Connections = all[:min(len(all), mostConnections)]
	return o
}

func matches(c *terminator.Connection, words []string) bool {
	if len(words) == 0 {
		return true
	}
	text := strings.ToLower(strings.Join([]string{c.Client.String(), c.Local.String(), c.SNI, c.Listener, c.Route, c.Backend, c.Endpoint,
		c.ALPN, c.TLSVersion, c.ClientCertificate, c.Path, c.Reason}, "\n"))
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
}

// OnlyByAddress refuses requests whose Host is a name other than localhost. A
// page of somebody else can make a browser ask here only under a name of its own
// (DNS rebinding).
func OnlyByAddress(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil && host != "localhost" {
			http.Error(w, "this page is asked for by address, as in http://127.0.0.1, or as localhost", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}
