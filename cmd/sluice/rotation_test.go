// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// Certificates change by file, by rename and as a mounted Secret does, while
// clients shake hands 100 times a second. Each new certificate is seen, and no
// handshake fails. 1,000 rotations with SLUICE_LONG set, else 60.
func TestRotationByFileFailsNoHandshake(t *testing.T) {
	rotations := 60
	if full {
		rotations = 1000
	}
	count := &figures.Figures{Faults: int64(rotations), What: "rotations, handshakes all the time"}
	figures.Record(t, count)
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off")
	// The Secret is a link into a folder that is swapped, as the kubelet does.
	conf := filepath.Join(g.dir, "conf")
	link := func(to, at string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(conf, ".link")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(conf, ".link"), filepath.Join(conf, at)); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(version int, secret []byte) {
		t.Helper()
		dir := fmt.Sprintf("..%d", version)
		if err := os.Mkdir(filepath.Join(conf, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(conf, dir, "certificate.yaml"), secret, 0o600); err != nil {
			t.Fatal(err)
		}
		link(dir, "..data")
	}

	var served atomic.Value // the serial number that was seen last
	served.Store("")
	var handshakes, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			wg.Go(func() {
				handshakes.Add(1)
				c, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", "127.0.0.1:"+g.port,
					&tls.Config{ServerName: serverName, InsecureSkipVerify: true})
				if err != nil {
					if failed.Add(1) <= 10 {
						t.Errorf("handshake: %v", err)
					}
					return
				}
				defer c.Close()
				served.Store(c.ConnectionState().PeerCertificates[0].SerialNumber.String())
			})
		}
	})

	for i := range rotations {
		c, err := newCertificate(time.Now().Add(time.Hour), serverName)
		if err != nil {
			t.Fatal(err)
		}
		switch secret := c.secret("certificate"); {
		case i < rotations/2:
			g.write("certificate.yaml", secret)
		default:
			swap(i, secret)
			if i == rotations/2 {
				link("..data/certificate.yaml", "certificate.yaml")
			}
		}
		deadline := time.Now().Add(20 * time.Second)
		for served.Load() != c.serial.String() {
			if time.Now().After(deadline) {
				t.Fatalf("rotation %d is not served", i)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	close(stop)
	wg.Wait()
	count.Connections, count.Failures = handshakes.Load(), failed.Load()
	t.Logf("%d rotations, %d handshakes, %d failed", rotations, handshakes.Load(), failed.Load())
}
