// SPDX-License-Identifier: Apache-2.0

package config

import "slices"

// Authority is a bundle of CA certificates to verify others by.
type Authority struct {
	// Name is "namespace/configmap".
	Name string `json:"name"`
	// Bundle is the certificates in PEM.
	Bundle []byte `json:"bundle"`
}

// ClientValidation says what a listener asks of the certificates of clients.
type ClientValidation struct {
	// Authorities names the bundles of those who may have issued them; at least
	// one.
	Authorities []string `json:"authorities"`
	// Optional serves clients without a certificate, or with one that does not
	// verify, as well (Gateway API, AllowInsecureFallback).
	Optional bool `json:"optional,omitempty"`
}

// BackendTLS says how TLS is spoken with the endpoints of a backend.
type BackendTLS struct {
	// Hostname is the server name that is sent, and what the certificate must be
	// valid for where SubjectAltNames has nothing.
	Hostname string `json:"hostname,omitempty"`
	// SubjectAltNames, when there are any, are what the certificate must have at
	// least one of, in place of Hostname.
	SubjectAltNames []SubjectAltName `json:"subjectAltNames,omitempty"`
	// Authorities names the bundles that the certificate is verified by. With
	// System it is those of the node's system instead.
	Authorities []string `json:"authorities,omitempty"`
	System      bool     `json:"system,omitempty"`
	// Refused is why nothing may be sent to the backend, "" when it may: nobody
	// can say whom to trust. Connections are reset, requests get status 502.
	Refused string `json:"refused,omitempty"`
}

// SubjectAltName is a name in a certificate, one of the two.
type SubjectAltName struct {
	// Hostname has the form of Listener.Hostname, and is not empty then.
	Hostname string `json:"hostname,omitempty"`
	// URI is compared as a whole.
	URI string `json:"uri,omitempty"`
}

func (v *validation) clientValidation(at string, l *Listener) {
	c := l.TLS.ClientValidation
	switch {
	case c == nil:
		return
	case l.TLS.Passthrough:
		v.addf("%s: passthrough takes no clientValidation", at)
	case len(c.Authorities) == 0:
		v.addf("%s: clientValidation needs an authority", at)
	}
	v.authorities(at, c.Authorities)
}

func (v *validation) backendTLS(at string, t *BackendTLS) {
	if t == nil || t.Refused != "" {
		return
	}
	if t.Hostname == "" {
		v.addf("%s: tls needs a hostname", at)
	}
	if t.System == (len(t.Authorities) > 0) {
		v.addf("%s: tls needs either authorities or system", at)
	}
	if i := slices.IndexFunc(t.SubjectAltNames, func(n SubjectAltName) bool { return (n.Hostname == "") == (n.URI == "") }); i >= 0 {
		v.addf("%s: tls.subjectAltNames[%d]: either hostname or uri is required", at, i)
	}
	v.authorities(at, t.Authorities)
}

func (v *validation) authorities(at string, names []string) {
	for _, n := range names {
		if !v.authorityNames[n] {
			v.addf("%s: authority %s does not exist", at, n)
		}
	}
}
