// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
)

// naiveSite is what the naive proxy is told.
type naiveSite struct {
	Listen, Backend netip.AddrPort
	Plain           bool
	Identities      []identity
}

// naiveMain is the proxy that most Go programmers write first: tls.Listen and
// two io.Copy. It serves until it is killed.
func naiveMain(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var site naiveSite
	if err := json.Unmarshal(raw, &site); err != nil {
		return err
	}
	l, err := net.Listen("tcp", site.Listen.String())
	if err != nil {
		return err
	}
	if !site.Plain {
		config, err := serverConfig(site.Identities)
		if err != nil {
			return err
		}
		l = tls.NewListener(l, config)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go naiveProxy(c, site.Backend.String())
	}
}

func naiveProxy(client net.Conn, backend string) {
	defer client.Close()
	b, err := net.Dial("tcp", backend)
	if err != nil {
		return
	}
	defer b.Close()
	go func() {
		_, _ = io.Copy(b, client)
		_ = b.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(client, b)
}

// serverConfig serves each identity at its name.
func serverConfig(identities []identity) (*tls.Config, error) {
	byName := make(map[string]*tls.Certificate, len(identities))
	for _, id := range identities {
		c, err := tls.X509KeyPair(id.Certificate, id.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", id.Name, err)
		}
		byName[id.Name] = &c
	}
	return &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := byName[hello.ServerName]; c != nil {
			return c, nil
		}
		return nil, fmt.Errorf("no certificate for %q", hello.ServerName)
	}}, nil
}
