// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent"
	lints "github.com/sluice-gateway/sluice/controller/lint"
)

// TestTheScreenShowsWhatIsNotServedToo prints the status of a gateway with
// mistakes for a terminal of 80 columns.
func TestTheScreenShowsWhatIsNotServedToo(t *testing.T) {
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off")
	g.write("mistakes.yaml", []byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: team-b}
spec:
  gatewayClassName: sluice
  addresses: [{value: 127.0.0.1}]
  listeners:
  - {name: certless, protocol: HTTPS, port: 8443, hostname: www.example.com, tls: {certificateRefs: [{name: gone}]}}
  - {name: quic, protocol: example.com/QUIC, port: 8444}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: lost}
spec:
  parentRefs: [{name: test, sectionName: nowhere}]
  hostnames: [lost.example.com]
  rules: [{backendRefs: [{name: test, port: 1}]}]
`))
	var view statusView
	eventually(t, "three problems", func() bool {
		view = statusView{}
		if err := json.Unmarshal([]byte(g.status()), &view); err != nil {
			t.Fatal(err)
		}
		return len(view.Resources.Problems) == 3
	})
	want := `sluice VERSION, serving for N, 0 open connections
splice off (off): turned off; connections are relayed

GATEWAY
  LISTENER  PORT  HOSTNAME  ROUTES  OPEN  STATE
default/test, 127.0.0.1: served
  tls  PORT/TLS  *  1  0  served
team-b/other, 127.0.0.1: not served
  certless  8443/HTTPS  www.example.com  0  0  not served
  quic  8444/example.com/QUIC  *  0  0  not served

ROUTE  PARENT  STATE
TLSRoute default/lost  test/nowhere  not accepted
TLSRoute default/test  test  accepted

CERTIFICATE  KEY  NAMES  EXPIRES
default/certificate  ECDSA P-256  gateway.example.com  DATE

PROBLEMS
- Gateway team-b/other: listener "certless": not ResolvedRefs
  (InvalidCertificateRef): Secret team-b/gone does not exist; create it, or
  correct the name in certificateRef
- Gateway team-b/other: listener "quic": not Accepted (UnsupportedProtocol):
  protocol example.com/QUIC is not supported; use HTTP, HTTPS, TLS, TCP or UDP
- TLSRoute default/lost: parent Gateway test listener "nowhere": not Accepted
  (NoMatchingParent): Gateway default/test has no listener "nowhere"; it has
  "tls" (port PORT)
`
	if diff := cmp.Diff(want, shown(&view, 80, g.port)); diff != "" {
		t.Errorf("screen (-want +got):\n%s", diff)
	}
	for line := range strings.Lines(shown(&view, 80, "")) {
		if len(line) > 81 {
			t.Errorf("wider than 80 columns: %s", line)
		}
	}
	// Where it is read by a program every problem is one line.
	if one := shown(&view, 0, ""); !strings.Contains(one, "\n- "+view.Resources.Problems[2]+"\n") {
		t.Errorf("not in one line: %s", one)
	}
}

// shown returns the screen with columns two spaces apart, and without what
// differs each time.
func shown(v *statusView, width int, port string) string {
	var b bytes.Buffer
	s := screen{&b, time.Now(), width}
	s.print(v)
	if port == "" {
		return b.String()
	}
	text := strings.ReplaceAll(b.String(), port, "PORT")
	for pattern, with := range map[string]string{`([^ \n])  +`: "$1  ", `sluice .*, serving for \w+`: "sluice VERSION, serving for N", `\d+-\d+-\d+, in \w+`: "DATE"} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, with)
	}
	return text
}

// CA certificates and the one for backends say what they are for.
func TestTheScreenSaysWhatCertificatesAreFor(t *testing.T) {
	at := time.Now().Add(100 * time.Hour)
	v := &statusView{Status: agent.Status{Snapshot: "1", Certificates: []agent.CertificateStatus{
		{Name: "a/www", Uses: []string{agent.UseServer}, KeyType: "ECDSA P-256", DNSNames: []string{"www.example.com"}, NotAfter: at},
		{Name: "a/both", Uses: []string{agent.UseClient, agent.UseServer}, KeyType: "Ed25519", Subject: "CN=gw", NotAfter: at},
		{Name: "a/people", Uses: []string{agent.UseClientCA}, KeyType: "RSA 2048", Subject: "CN=people-ca", NotAfter: at}}}}
	const want = `
CERTIFICATE  KEY  NAMES  EXPIRES
a/www  ECDSA P-256  www.example.com  DATE
a/both (client, server)  Ed25519  CN=gw  DATE
a/people (client_ca)  RSA 2048  CN=people-ca  DATE
`
	if got := shown(v, 80, "PORT"); !strings.Contains(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Names in files and in certificates are whatever somebody likes, and what a node
// says is, too: they do nothing to a terminal and look like no line of their own.
func TestTheScreenTakesNoOrdersFromNames(t *testing.T) {
	const name = "\x1b]0;x\x07\u009b31m\r\u202e\tb\nverify   ok"
	var b bytes.Buffer
	s := screen{&b, time.Now(), 0}
	s.line("  ", "line %s", name)
	s.list("LIST", []string{name})
	s.block("key: " + name + "\n")
	table := s.table("A", "B")
	table.heading(name)
	table.row(name, "b")
	table.print()
	s.findings([]lints.Finding{{File: name, Message: name, Rule: "rule"}})
	s.probed(&probed{Version: "TLS 1.3", ALPN: name, SNI: name, Certificates: []agent.CertificateStatus{{Subject: name, DNSNames: []string{name}}}, Failed: "verify", Problem: name})
	for line := range strings.Lines(b.String()) {
		if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsGraphic(r) }); i >= 0 || strings.HasPrefix(line, "verify   ok") {
			t.Errorf("%q", line)
		}
	}
}
