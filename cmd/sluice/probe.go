// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/agent"
)

// probed is a client's view of a server.
type probed struct {
	Target string `json:"target"`
	SNI    string `json:"sni,omitempty"`
	// Addresses are what the name resolves to, Address is the one that answered.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Address   string       `json:"address,omitempty"`
	// Seconds that each step took.
	DNS float64 `json:"dns"`
	TCP float64 `json:"tcp"`
	TLS float64 `json:"tls"`

	Version      string                    `json:"version,omitempty"`
	CipherSuite  string                    `json:"cipherSuite,omitempty"`
	Group        string                    `json:"group,omitempty"`
	ALPN         string                    `json:"alpn,omitempty"`
	Certificates []agent.CertificateStatus `json:"certificates,omitempty"`
	// Failed is the step that failed (dns, tcp, tls or verify), Problem why.
	Failed  string `json:"failed,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// probe connects as a client does and says what it sees.
func probe(e *env, flags *flag.FlagSet, args []string) error {
	sni := flags.String("sni", "", "server `name` to ask for (default HOST)")
	alpn := flags.String("alpn", "", "comma-separated `protocols` to offer")
	ca := flags.String("ca", "", "`file` with CA certificates to verify by (default those of the system)")
	timeout := flags.Duration("timeout", 10*time.Second, "how long each step may take")
	output := flags.String("o", "text", "output `format`: text or json")
	if err := parse(flags, args, "HOST:PORT"); err != nil {
		return err
	}
	if err := oneOf("-o", *output, "text", "json"); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(flags.Arg(0))
	if err != nil || host == "" || !isAddress(flags.Arg(0)) {
		return usageError(fmt.Sprintf("%q is not HOST:PORT", flags.Arg(0)))
	}
	c := &tls.Config{ServerName: host}
	if *sni != "" {
		c.ServerName = *sni
	}
	if *alpn != "" {
		c.NextProtos = strings.Split(*alpn, ",")
	}
	if *ca != "" {
		text, err := os.ReadFile(*ca)
		if err != nil {
			return err
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("%s has no certificate in PEM", *ca)
		}
	}
	p := &probed{Target: flags.Arg(0), SNI: c.ServerName}
	p.run(e.ctx, host, port, c, *timeout)
	if *output == "json" {
		err = printJSON(e.stdout, p)
	} else {
		s := screen{e.stdout, time.Now(), terminalWidth(e.stdout)}
		s.probed(p)
	}
	if err == nil && p.Failed != "" {
		return errWrong
	}
	return err
}

func (p *probed) fail(step string, err error) { p.Failed, p.Problem = step, err.Error() }

func (p *probed) run(ctx context.Context, host, port string, c *tls.Config, timeout time.Duration) {
	lookup, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	addresses, err := net.DefaultResolver.LookupNetIP(lookup, "ip", host)
	p.DNS = time.Since(start).Seconds()
	if err != nil {
		p.fail("dns", err)
		return
	}
	var conn net.Conn
	var errs []error
	start = time.Now()
	for _, a := range addresses {
		p.Addresses = append(p.Addresses, a.Unmap())
		if conn != nil {
			continue
		}
		d := net.Dialer{Timeout: timeout}
		if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(a.Unmap().String(), port)); err != nil {
			errs, conn = append(errs, err), nil
		}
	}
	p.TCP = time.Since(start).Seconds()
	if conn == nil {
		p.fail("tcp", errors.Join(errs...))
		return
	}
	defer conn.Close()
	p.Address = conn.RemoteAddr().String()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	p.handshake(ctx, conn, c)
}

// handshake does it without a verdict on the certificate, which comes after: a
// chain that does not verify is to be shown.
func (p *probed) handshake(ctx context.Context, conn net.Conn, c *tls.Config) {
	unverified := c.Clone()
	unverified.InsecureSkipVerify = true
	client := tls.Client(conn, unverified)
	start := time.Now()
	err := client.HandshakeContext(ctx)
	p.TLS = time.Since(start).Seconds()
	var notTLS tls.RecordHeaderError
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		p.fail("tls", fmt.Errorf("the server reset the connection after the ClientHello; Sluice does so where nobody serves the server name %q", c.ServerName))
		return
	case errors.As(err, &notTLS):
		p.fail("tls", fmt.Errorf("the server does not speak TLS: %w", err))
		return
	case err != nil:
		p.fail("tls", err)
		return
	}
	cs := client.ConnectionState()
	p.Version, p.CipherSuite, p.Group, p.ALPN = tls.VersionName(cs.Version), tls.CipherSuiteName(cs.CipherSuite), cs.CurveID.String(), cs.NegotiatedProtocol
	opts := x509.VerifyOptions{Roots: c.RootCAs, DNSName: c.ServerName, Intermediates: x509.NewCertPool()}
	for i, crt := range cs.PeerCertificates {
		p.Certificates = append(p.Certificates, agent.DescribeCertificate(crt))
		if i > 0 {
			opts.Intermediates.AddCert(crt)
		}
	}
	if _, err := cs.PeerCertificates[0].Verify(opts); err != nil {
		p.fail("verify", err)
	}
}

func (s *screen) probed(p *probed) {
	ms := func(seconds float64) string { return fmt.Sprintf("%.1f ms", 1000*seconds) }
	row := func(name, took, format string, args ...any) {
		s.line("", "%s", strings.TrimRight(fmt.Sprintf("%-8s %10s  %s", name, took, fmt.Sprintf(format, args...)), " "))
	}
	var all []string
	for _, a := range p.Addresses {
		all = append(all, a.String())
	}
	row("dns", ms(p.DNS), "%s", strings.Join(all, ", "))
	if p.Address != "" {
		row("tcp", ms(p.TCP), "%s answered", p.Address)
	}
	if p.Version != "" {
		row("tls", ms(p.TLS), "%s, %s, %s, ALPN %s, server name %s", p.Version, p.CipherSuite, p.Group, dash(p.ALPN), p.SNI)
	}
	for i, c := range p.Certificates {
		name := "leaf"
		if i > 0 {
			name = "issuer"
		}
		names := ""
		if len(c.DNSNames) > 0 {
			names = ", for " + shorten(c.DNSNames)
		}
		row(name, "", "%s (%s)%s, expires %s", oneLine(c.Subject), c.KeyType, oneLine(names), expiry(c.NotAfter, s.now))
	}
	switch {
	case p.Failed == "verify":
		row("verify", "", "no: %s", oneLine(p.Problem)) // it names the certificate's names
	case p.Failed != "":
		row(p.Failed, "", "failed: %s", p.Problem)
	default:
		row("verify", "", "ok")
	}
}
