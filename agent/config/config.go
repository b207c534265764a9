// SPDX-License-Identifier: Apache-2.0

// Package config is the one model of what a node serves.
//
// A [Snapshot] is plain data: it refers to its own parts by name, holds no
// pointers into other objects and is never changed after it was built. The
// translator makes it out of Gateway API objects, the agent applies it. It
// prints without secrets: private keys show as [redacted] in every format.
package config

import (
	"net/netip"
	"time"
)

// Snapshot is everything that a node serves at one moment. Its parts are
// sorted by name ([Snapshot.Sort]), so equal content has one form and one
// [Snapshot.Hash].
type Snapshot struct {
	Listeners    []Listener    `json:"listeners,omitempty"`
	Routes       []Route       `json:"routes,omitempty"`
	Backends     []Backend     `json:"backends,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	// Addresses are those of listeners that no node has by itself: one node at
	// a time holds each of them, and every node listens on them all the time.
	Addresses   []netip.Addr `json:"addresses,omitempty"`
	Authorities []Authority  `json:"authorities,omitempty"`
}

// Protocol is what a listener speaks with its clients, in the words of the
// Gateway API (gateway.networking.k8s.io ProtocolType).
type Protocol string

// The protocols that Sluice serves.
const (
	HTTP  Protocol = "HTTP"
	HTTPS Protocol = "HTTPS"
	TLS   Protocol = "TLS"
	TCP   Protocol = "TCP"
	UDP   Protocol = "UDP"
)

// Listener is one entry of a Gateway. Several listeners may share an address
// and port when host names tell them apart (HTTP, HTTPS and TLS).
type Listener struct {
	// Name is "namespace/gateway/listener"; that of a ListenerSet's listener is
	// "namespace/gateway/namespace/listenerset/listener".
	Name string `json:"name"`
	// Addresses are the local addresses to listen on; none means all addresses
	// of the node, IPv4 and IPv6.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Port      uint16       `json:"port"`
	Protocol  Protocol     `json:"protocol"`
	// Hostname is the SNI name (TLS, HTTPS) or Host (HTTP) that the listener
	// takes: an exact name, "*.example.com" (any number of labels, at least
	// one), or "" for every name and for clients that send none. Lower case.
	Hostname string `json:"hostname,omitempty"`
	// TLS is set on HTTPS and TLS listeners only.
	TLS *ListenerTLS `json:"tls,omitempty"`
	// L4 are the routes for whole connections, most specific hostname first.
	// On TLS listeners they are TLSRoutes (and TCPRoutes with hostname ""); on
	// TCP and UDP the one with hostname "". On HTTPS they get the connections whose SNI
	// name no entry of HTTP claims. A connection that matches none is refused.
	L4 []HostRoute `json:"l4,omitempty"`
	// HTTP are the hosts of HTTP and HTTPS listeners, most specific first.
	HTTP []HTTPHost `json:"http,omitempty"`
	// BackendCertificate names the certificate that is shown to backends that
	// speak TLS and ask for one, "" for none.
	BackendCertificate string `json:"backendCertificate,omitempty"`
	// MaxConnections is the limit of simultaneous client connections, 0 for the
	// default of the agent.
	MaxConnections int `json:"maxConnections,omitempty"`
	// IdleTimeout ends a connection that moved no byte either way for so long,
	// and a session of a UDP listener without a datagram; 0 for the default of
	// the agent.
	IdleTimeout time.Duration `json:"idleTimeout,omitempty"`
	// NotServed is why the listener serves nothing, "" when it does. Its host
	// name stays its own: connections and requests for it are refused, where
	// another listener on the port would take them by wildcard. It has neither
	// certificates nor routes.
	NotServed string `json:"notServed,omitempty"`
}

// ListenerTLS says what a listener does with TLS.
type ListenerTLS struct {
	// Passthrough routes by SNI and leaves TLS to the backend.
	Passthrough bool `json:"passthrough,omitempty"`
	// Certificates names the certificates to choose from by what the client
	// offers; at least one unless Passthrough.
	Certificates []string `json:"certificates,omitempty"`
	// ALPN are the protocols to accept, best first. None ignores what the
	// client offers; connections served by HTTP rules then accept h2 and
	// http/1.1.
	ALPN []string `json:"alpn,omitempty"`
	// MinVersion is 0x0303 (TLS 1.2) or 0x0304 (TLS 1.3); 0 is TLS 1.2.
	MinVersion uint16 `json:"minVersion,omitempty"`
	// ClientValidation asks clients for a certificate when set.
	ClientValidation *ClientValidation `json:"clientValidation,omitempty"`
}

// HostRoute ties a host name (same form as Listener.Hostname) to a route.
type HostRoute struct {
	Hostname string `json:"hostname,omitempty"`
	// Route is the name of an entry in Snapshot.Routes.
	Route string `json:"route"`
}

// Route is where the connections of an L4 route go.
type Route struct {
	// Name is "kind/namespace/name", for instance "TLSRoute/shop/redis".
	Name string `json:"name"`
	// Backends share the connections by weight. None, or a weight sum of 0,
	// resets every connection.
	Backends []BackendRef `json:"backends,omitempty"`
}

// BackendRef is one share of a route's connections.
type BackendRef struct {
	// Backend is the name of an entry in Snapshot.Backends, or "" when the
	// reference does not resolve: its share of connections is reset (HTTP: 500).
	Backend string `json:"backend,omitempty"`
	// Weight is the relative share, 0 to 1,000,000.
	Weight int `json:"weight"`
}

// Backend is a service and the endpoints that carry it.
type Backend struct {
	// Name is "namespace/service:port", with "/udp" behind it for UDP.
	Name string `json:"name"`
	// Endpoints are the usable ones. None: connections are reset at once.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Service, when set, says where each node finds the endpoints by itself;
	// Endpoints is empty then.
	Service *Service `json:"service,omitempty"`
	// Protocol is the application protocol of an HTTP backend: "" for HTTP/1.1,
	// "h2c" for HTTP/2 (with TLS: h2 by ALPN), "ws" for WebSocket (served as HTTP/1.1).
	Protocol string `json:"protocol,omitempty"`
	// TLS is set when the backend is to be spoken to with TLS. Connections of
	// listeners with Passthrough are not concerned: they carry the client's.
	TLS *BackendTLS `json:"tls,omitempty"`
	// Splice says whether connections to this backend may be spliced.
	Splice SpliceMode `json:"splice,omitempty"`
}

// Service is a port of a Kubernetes Service, as its EndpointSlices describe it.
type Service struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Port is the name of the port, "" for the only one.
	Port string `json:"port,omitempty"`
	// Number is the port of endpoints whose EndpointSlice gives no number.
	Number uint16 `json:"number"`
	// UDP says that the port is one of UDP, else it is one of TCP.
	UDP bool `json:"udp,omitempty"`
	// Local takes the endpoints on the node itself only
	// (Service.spec.internalTrafficPolicy: Local).
	Local bool `json:"local,omitempty"`
}

// SpliceMode is the splice policy of a backend.
type SpliceMode string

// Splice policies. The zero value is SpliceAuto.
const (
	SpliceAuto SpliceMode = ""
	SpliceOff  SpliceMode = "off"
)

// Endpoint is one process that serves a backend.
type Endpoint struct {
	// Host is an IPv4 or IPv6 address, or a domain name that the agent resolves.
	Host string `json:"host"`
	Port uint16 `json:"port"`
}

// Certificate is a chain with its private key.
type Certificate struct {
	// Name is "namespace/secret".
	Name string `json:"name"`
	// Chain is the certificates in PEM, leaf first.
	Chain []byte `json:"chain"`
	// Key is the private key in PEM.
	Key Secret `json:"key"`
}

// HTTPHost is the HTTP rules of one host name on one listener.
type HTTPHost struct {
	// Hostname has the form of Listener.Hostname.
	Hostname string `json:"hostname,omitempty"`
	// Rules are in order of precedence (Gateway API, HTTPRouteMatch): the first
	// that matches is taken; none answers 404.
	Rules []HTTPRule `json:"rules"`
}

// HTTPRule is one match of an HTTPRoute with what follows from it.
type HTTPRule struct {
	// Route is the route it came from, "HTTPRoute/namespace/name".
	Route string `json:"route"`
	// Match holds when all of its parts hold.
	Match HTTPMatch `json:"match"`
	// Redirect answers without a backend when set.
	Redirect *HTTPRedirect `json:"redirect,omitempty"`
	// URLRewrite changes host and path towards the backend.
	URLRewrite *HTTPURLRewrite `json:"urlRewrite,omitempty"`
	// RequestHeaders and ResponseHeaders are changed on the way.
	RequestHeaders  *HTTPHeaders     `json:"requestHeaders,omitempty"`
	ResponseHeaders *HTTPHeaders     `json:"responseHeaders,omitempty"`
	Backends        []HTTPBackendRef `json:"backends,omitempty"`
	// RequestTimeout bounds the whole exchange, BackendTimeout one try towards
	// a backend; 0 is no limit.
	RequestTimeout time.Duration `json:"requestTimeout,omitempty"`
	BackendTimeout time.Duration `json:"backendTimeout,omitempty"`
	// Invalid answers 500 to whatever matches: the rule has a filter or a
	// reference that cannot be honored.
	Invalid bool `json:"invalid,omitempty"`
}

// HTTPMatch is what a request must look like. Zero parts match everything.
type HTTPMatch struct {
	// Path is compared whole (PathExact), or by path elements.
	Path      string `json:"path,omitempty"`
	PathExact bool   `json:"pathExact,omitempty"`
	Method    string `json:"method,omitempty"`
	// Headers names are canonical (http.CanonicalHeaderKey); values are exact.
	Headers []HTTPHeader `json:"headers,omitempty"`
	Query   []HTTPHeader `json:"query,omitempty"`
}

// HTTPHeader is a name with a value.
type HTTPHeader struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// HTTPHeaders are changes to the headers of a message: Remove, then Set, then Add.
type HTTPHeaders struct {
	Remove []string     `json:"remove,omitempty"`
	Set    []HTTPHeader `json:"set,omitempty"`
	Add    []HTTPHeader `json:"add,omitempty"`
}

// HTTPPathChange replaces a path: whole (Full), or what Prefix matched.
type HTTPPathChange struct {
	// Full replaces the whole path when set; else the matched prefix becomes
	// Prefix.
	Full   *string `json:"full,omitempty"`
	Prefix string  `json:"prefix,omitempty"`
}

// HTTPURLRewrite changes a request towards the backend.
type HTTPURLRewrite struct {
	Hostname string          `json:"hostname,omitempty"`
	Path     *HTTPPathChange `json:"path,omitempty"`
}

// HTTPRedirect answers with a Location made of the request's own, changed.
type HTTPRedirect struct {
	// Scheme, Hostname and Port replace the request's where set. Port 0 keeps
	// the listener's, or takes the well-known one of a changed Scheme.
	Scheme   string          `json:"scheme,omitempty"`
	Hostname string          `json:"hostname,omitempty"`
	Port     uint16          `json:"port,omitempty"`
	Path     *HTTPPathChange `json:"path,omitempty"`
	// Code is the status code, 301 or 302 and their kin.
	Code int `json:"code"`
}

// HTTPBackendRef is a BackendRef with header changes of its own.
type HTTPBackendRef struct {
	BackendRef
	RequestHeaders  *HTTPHeaders `json:"requestHeaders,omitempty"`
	ResponseHeaders *HTTPHeaders `json:"responseHeaders,omitempty"`
}

// Report is what a node says of the snapshot that it serves. The translator
// turns it into the Programmed conditions.
type Report struct {
	// Hash is the Hash of the snapshot it speaks of.
	Hash string `json:"hash"`
	// Parts are, by Gateway, the Hash of the part of a snapshot that the node
	// serves ([Snapshot.Parts]), where it takes them one by one; Hash is "" then.
	Parts map[string]string `json:"parts,omitempty"`
	// Listeners has one entry per listener of the snapshot, by name; the value
	// is "" when it is served, else why not ("listen tcp 10.0.0.1:443: bind:
	// cannot assign requested address").
	Listeners map[string]string `json:"listeners"`
	// Addresses are those of Snapshot.Addresses that are held, with "", and those
	// that cannot be, with the reason; the others are on their way. nil says
	// nothing of any.
	Addresses map[netip.Addr]string `json:"addresses,omitempty"`
	// Empty are the backends that have no endpoint there, by name, with the
	// reason, where the node finds endpoints itself (Backend.Service).
	Empty map[string]string `json:"empty,omitempty"`
}
